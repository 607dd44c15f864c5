#pragma once

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
