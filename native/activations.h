#pragma once

#include <string.h>

#include "weight_layout.h"

#if HAS_OWN_PRODUCTS

// A block of activations, quantized to 8 bits: value = scale * number.
struct activation_block {
    float scale, sum;        // sum: of the values
    int32_t corrections[2];  // of both halves: minus the sum of the numbers, times the weights' zero point
    int8_t numbers[QUANT_BLOCK];
};

// Quantizes x[n_blocks * QUANT_BLOCK] as llama.cpp does: with a scale for each 32 numbers, or for each 256 if
// the weights have superblocks. zero_point: what weights of zero are stored as.
void quantize_activations(const float *x, int64_t n_blocks, bool is_super, int32_t zero_point,
                          struct activation_block *out);

// Puts both corrections, which must fit 16 bits, into the first: as add_scaled_dot wants them.
INLINE void pair_corrections(struct activation_block *v) {
    v->corrections[0] = (int32_t)((uint32_t)v->corrections[1] << 16 | (uint16_t)v->corrections[0]);
}

#if HAS_PRODUCTS

// A superblock of activations; it takes the place of its blocks; arm_activations.h has ARM's. sums: of 16 numbers each.
struct __attribute__((may_alias)) activation_superblock {
    int8_t numbers[SUPERBLOCK * QUANT_BLOCK];
    int16_t sums[2 * SUPERBLOCK];
    float scale;
};
_Static_assert(sizeof(struct activation_superblock) <= SUPERBLOCK * sizeof(struct activation_block),
               "it takes their place");

static inline void pack_superblock(struct activation_block *blocks) {
    struct activation_superblock packed = {.scale = blocks[0].scale};
    for (int b = 0; b < SUPERBLOCK; b++) {
        memcpy(packed.numbers + b * QUANT_BLOCK, blocks[b].numbers, QUANT_BLOCK);
        packed.sums[2 * b] = (int16_t)-blocks[b].corrections[0];
        packed.sums[2 * b + 1] = (int16_t)-blocks[b].corrections[1];
    }
    memcpy(blocks, &packed, sizeof packed);
}

// Packs the blocks of a vector that was quantized with a zero point of one.
static inline void pack_superblocks(struct activation_block *blocks, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b += SUPERBLOCK) {
        pack_superblock(blocks + b);
    }
}

INLINE const struct activation_superblock *superblock_of(const struct activation_block *vector, int64_t s) {
    return (const struct activation_superblock *)&vector[s * SUPERBLOCK];
}

#endif

// Cases of a switch over a number of vectors, in each of which the compiler knows the number.
#define ONE_TO_EIGHT(CASE) \
    CASE(1);               \
    CASE(2);               \
    CASE(3);               \
    CASE(4);               \
    CASE(5);               \
    CASE(6);               \
    CASE(7);               \
    CASE(8)

#endif
