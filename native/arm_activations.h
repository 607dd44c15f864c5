// Vectors that are multiplied on ARM, quantized to 8 bits: the same form for few vectors and for many.
//
// Types with blocks have `struct activation_block`s, whose first correction is of the whole block. Types with
// superblocks have an activation_superblock in the place of eight of those.

#pragma once

#include "activations.h"

#if HAS_ARM_PRODUCTS

#include "arm_layout.h"

// corrections: of 16 numbers each, minus their sum, times the weights' zero point. low_sums, high_sums: a sum is
// 128 * high + low; each of 32 numbers in the first eight, or of 16: so minima, which are bytes, are multiplied as
// numbers are.
struct __attribute__((may_alias)) activation_superblock {
    int8_t numbers[SUPERBLOCK * QUANT_BLOCK];
    int32_t corrections[2 * SUPERBLOCK];
    int8_t low_sums[2 * SUPERBLOCK], high_sums[2 * SUPERBLOCK];
    float scale;
};
_Static_assert(sizeof(struct activation_superblock) <= SUPERBLOCK * sizeof(struct activation_block),
               "it takes their place");

INLINE const struct activation_superblock *superblock_of(const struct activation_block *vector, int64_t s) {
    return (const struct activation_superblock *)&vector[s * SUPERBLOCK];
}

// Packs eight blocks, whose corrections are the sums. per_sum: numbers that low_sums and high_sums are of.
static inline void pack_superblock(struct activation_block *blocks, int zero_point, int per_sum) {
    struct activation_superblock packed = {.scale = blocks[0].scale};
    for (int b = 0; b < SUPERBLOCK; b++) {
        memcpy(packed.numbers + b * QUANT_BLOCK, blocks[b].numbers, QUANT_BLOCK);
    }
    for (int i = 0; i < 2 * SUPERBLOCK; i++) {
        packed.corrections[i] = -zero_point * blocks[i / 2].corrections[i % 2];
    }
    for (int i = 0; i < SUPERBLOCK * QUANT_BLOCK / per_sum; i++) {
        const int32_t *const of = blocks[i * per_sum / QUANT_BLOCK].corrections;
        const int32_t sum = per_sum == QUANT_BLOCK ? of[0] + of[1] : of[i % 2];
        packed.low_sums[i] = (int8_t)(sum & 127);
        packed.high_sums[i] = (int8_t)(sum >> 7);
    }
    memcpy(blocks, &packed, sizeof packed);
}

// Quantizes a vector for a matrix of this type.
static inline void quantize_vector(enum ggml_type type, const float *x, int64_t n_blocks,
                                   struct activation_block *out) {
    const int32_t zero_point = arm_types[type].zero_point;
    if (!arm_types[type].has_superblocks) {
        quantize_activations(x, n_blocks, false, zero_point, out);
        for (int64_t b = 0; b < n_blocks; b++) {
            out[b].corrections[0] += out[b].corrections[1];
        }
        return;
    }
    quantize_activations(x, n_blocks, true, -1, out);
    for (int64_t b = 0; b < n_blocks; b += SUPERBLOCK) {
        pack_superblock(out + b, zero_point, type == GGML_TYPE_Q2_K ? QUANT_BLOCK / 2 : QUANT_BLOCK);
    }
}

#endif
