// Vectors that are multiplied on ARM, quantized to 8 bits: the same form for few vectors and for many.
//
// Types with blocks have `struct activation_block`s, whose corrections are the plain sums of the numbers' halves.
// Types with superblocks have an activation_superblock in the place of eight of those.

#pragma once

#include "activations.h"

#if HAS_ARM_PRODUCTS

#include "arm_layout.h"

// sums: of 16 numbers each. low_sums, high_sums: sum = 128 * high + low, of 32 numbers each in the first eight, or of
// 16 each; so that minima, which are bytes, are multiplied as numbers are.
struct __attribute__((may_alias)) activation_superblock {
    int8_t numbers[SUPERBLOCK * QUANT_BLOCK];
    int32_t sums[2 * SUPERBLOCK];
    int8_t low_sums[2 * SUPERBLOCK], high_sums[2 * SUPERBLOCK];
    float scale;
};
_Static_assert(sizeof(struct activation_superblock) <= SUPERBLOCK * sizeof(struct activation_block),
               "it takes their place");

INLINE const struct activation_superblock *superblock_of(const struct activation_block *vector, int64_t s) {
    return (const struct activation_superblock *)&vector[s * SUPERBLOCK];
}

// per_sum: numbers that low_sums and high_sums are of.
static inline void pack_superblock(struct activation_block *blocks, int per_sum) {
    struct activation_superblock packed = {.scale = blocks[0].scale};
    for (int i = 0; i < 2 * SUPERBLOCK; i++) {
        packed.sums[i] = blocks[i / 2].corrections[i % 2];
    }
    for (int b = 0; b < SUPERBLOCK; b++) {
        memcpy(packed.numbers + b * QUANT_BLOCK, blocks[b].numbers, QUANT_BLOCK);
    }
    for (int i = 0; i < SUPERBLOCK * QUANT_BLOCK / per_sum; i++) {
        const int32_t sum = per_sum == 16 ? packed.sums[i] : packed.sums[2 * i] + packed.sums[2 * i + 1];
        packed.low_sums[i] = (int8_t)(sum & 127);
        packed.high_sums[i] = (int8_t)(sum >> 7);
    }
    memcpy(blocks, &packed, sizeof packed);
}

// Quantizes a vector for a matrix of this type.
static inline void quantize_vector(enum ggml_type type, const float *x, int64_t n_blocks,
                                   struct activation_block *out) {
    const bool is_super = arm_types[type].has_superblocks;
    quantize_activations(x, n_blocks, is_super, -1, out);
    for (int64_t b = 0; is_super && b < n_blocks; b += SUPERBLOCK) {
        pack_superblock(out + b, type == GGML_TYPE_Q2_K ? 16 : QUANT_BLOCK);
    }
}

#endif
