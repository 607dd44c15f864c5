// Products of few vectors with eight interleaved rows, as llama.cpp repacks Q4_0 and Q4_K.
//
// Knows: one group of rows. Refuses to know: matrices, nodes and threads.
//
// Each row has two lanes of the result, and no lanes are shuffled before the last block.

#pragma once

#include <string.h>

#include "activations.h"
#include "matvec_stream.h"

enum {
    ROW_REGISTERS = 2 * ROW_GROUP / INT_LANES,  // of the two lanes of each row
    Q4_0_FLIPPED = (int32_t)0x88888888          // bits
};

typedef float row_group_floats __attribute__((vector_size(ROW_GROUP * 4)));

#if defined(__AVX512VNNI__)
INLINE int_lanes shuffled_bytes(int_lanes x, int_lanes order) {
    return (int_lanes)_mm512_shuffle_epi8((__m512i)x, (__m512i)order);
}
#else
INLINE int_lanes shuffled_bytes(int_lanes x, int_lanes order) {
    return (int_lanes)_mm256_shuffle_epi8((__m256i)x, (__m256i)order);
}
#endif

// The halves of eight bytes of each of eight rows: two lanes for each row.
struct nibbles {
    int_lanes low[ROW_REGISTERS], high[ROW_REGISTERS];
};

// flip: the bits that are flipped in memory.
INLINE struct nibbles unpack_nibbles(const uint8_t (*bytes)[8], const int32_t flip) {
    const int_lanes flips = (int_lanes){0} + flip, half = (int_lanes){0} + 0x0f0f0f0f;
    struct nibbles u;
    for (int r = 0; r < ROW_REGISTERS; r++) {
        int_lanes v;
        memcpy(&v, bytes + r * ROW_GROUP / ROW_REGISTERS, sizeof v);
#if defined(__AVX512VNNI__)
        const __m512i f = (__m512i)flips, h = (__m512i)half;  // (v ^ flips) & half, in one instruction
        u.low[r] = (int_lanes)_mm512_ternarylogic_epi32((__m512i)v, f, h, 0x28);
        u.high[r] = (int_lanes)_mm512_ternarylogic_epi32((__m512i)(v >> 4), f, h, 0x28);
#else
        v ^= flips;
        u.low[r] = v & half;
        u.high[r] = (v >> 4) & half;
#endif
    }
    return u;
}

// Returns the same eight bytes for every row.
INLINE int_lanes eight_bytes(const void *from) {
    typedef int64_t longs __attribute__((vector_size(sizeof(int_lanes))));
    int64_t x;
    memcpy(&x, from, sizeof x);
    return (int_lanes)((longs){0} + x);
}

INLINE int_lanes eight_activations(const struct activation_block *v, int first) {
    return eight_bytes(v->numbers + first);
}

INLINE int_lanes corrections_of(const struct activation_block *v) { return eight_bytes(v->corrections); }

// Copies a number of each row to both of its lanes.
INLINE void spread_to_rows(__m256 of_rows, product_lanes out[ROW_REGISTERS]) {
    const row_group_floats x = (row_group_floats)of_rows;
#if defined(__AVX512VNNI__)
    out[0] = __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
#else
    out[0] = __builtin_shufflevector(x, x, 0, 0, 1, 1, 2, 2, 3, 3);
    out[1] = __builtin_shufflevector(x, x, 4, 4, 5, 5, 6, 6, 7, 7);
#endif
}

// Adds the two lanes of each row.
INLINE row_group_floats gather_rows(const product_lanes sums[ROW_REGISTERS]) {
    float lanes[2 * ROW_GROUP];
    memcpy(lanes, sums, sizeof lanes);
    row_group_floats of_rows;
    for (int i = 0; i < ROW_GROUP; i++) {
        of_rows[i] = lanes[2 * i] + lanes[2 * i + 1];
    }
    return of_rows;
}

INLINE void store_rows(float *out, row_group_floats x) { _mm256_storeu_ps(out, (__m256)x); }

// Multiplies eight rows with n vectors. vectors: [n][n_blocks]. out: [n][ROW_GROUP].
INLINE void matvec_q4_0(const int n, const struct q4_0_group *rows,
                        const struct activation_block *const *vectors, int64_t n_blocks, float *const *out) {
    product_lanes sums[MAX_VECTORS][ROW_REGISTERS] = {0};
    for (int64_t b = 0; b < n_blocks; b++) {
        prefetch_ahead(&rows[b], sizeof rows[b]);
        const struct nibbles first = unpack_nibbles(rows[b].bytes[0], Q4_0_FLIPPED);
        const struct nibbles second = unpack_nibbles(rows[b].bytes[1], Q4_0_FLIPPED);
        product_lanes scales[ROW_REGISTERS];
        spread_to_rows(load_eight_halves(rows[b].scales), scales);
        for (int i = 0; i < n; i++) {
            const struct activation_block *const v = &vectors[i][b];
            for (int r = 0; r < ROW_REGISTERS; r++) {
                int_lanes sum = HAS_VNNI ? corrections_of(v) : (int_lanes){0};
                sum = add_dot(sum, first.low[r], eight_activations(v, 0));
                sum = add_dot(sum, second.low[r], eight_activations(v, 8));
                sum = add_dot(sum, first.high[r], eight_activations(v, 16));
                sum = add_dot(sum, second.high[r], eight_activations(v, 24));
                const int_lanes whole = HAS_VNNI ? sum : widened_dot(sum) + corrections_of(v);
                sums[i][r] += __builtin_convertvector(whole, product_lanes) * (scales[r] * v->scale);
            }
        }
    }
    for (int i = 0; i < n; i++) {
        store_rows(out[i], gather_rows(sums[i]));
    }
}

// Spreads a number below 256 of each row, to be factors of add_scaled_dot.
INLINE void spread_bytes_to_rows(const uint8_t *of_rows, int_lanes out[ROW_REGISTERS]) {
    typedef int8_t bytes __attribute__((vector_size(sizeof(int_lanes))));
    bytes order;  // where each byte comes from: a factor in each lane, or in each half; -1: 0
    const int_lanes all = eight_bytes(of_rows);
    for (int r = 0; r < ROW_REGISTERS; r++) {
        for (int i = 0; i < INT_LANES * 4; i++) {
            order[i] = i % (HAS_VNNI ? 4 : 2) ? -1 : (int8_t)(r * ROW_GROUP / ROW_REGISTERS + i / 8);
        }
        out[r] = shuffled_bytes(all, (int_lanes)order);
    }
}

// The same with n_super superblocks of Q4_K. vectors: [n][n_super * SUPERBLOCK].
INLINE void matvec_q4_k(const int n, const struct q4_k_group *rows,
                        const struct activation_block *const *vectors, int64_t n_super, float *const *out) {
    product_lanes sums[MAX_VECTORS][ROW_REGISTERS] = {0};
    row_group_floats sum_of_minima[MAX_VECTORS] = {0};
    for (int64_t s = 0; s < n_super; s++, rows++) {
        const struct q4_k_factors factors = q4_k_factors_of(rows);
        int_lanes whole[MAX_VECTORS][ROW_REGISTERS] = {0};
        row_group_floats whole_minima[MAX_VECTORS] = {0};
        for (int b = 0; b < SUPERBLOCK; b += 2) {
            prefetch_ahead(rows->bytes[b / 2], sizeof rows->bytes[b / 2]);
            struct nibbles parts[4];
            for (int k = 0; k < 4; k++) {
                parts[k] = unpack_nibbles(rows->bytes[b / 2][k], 0);
            }
            for (int half = 0; half < 2; half++) {
                const row_group_floats minima =
                    (row_group_floats)floats_of_eight_bytes(factors.minima[b + half]);
                int_lanes scales[ROW_REGISTERS];
                spread_bytes_to_rows(factors.scales[b + half], scales);
                for (int i = 0; i < n; i++) {
                    const struct activation_block *const v = &vectors[i][s * SUPERBLOCK + b + half];
                    for (int r = 0; r < ROW_REGISTERS; r++) {
                        int_lanes sum = {0};
                        for (int k = 0; k < 4; k++) {
                            sum = add_dot(sum, half ? parts[k].high[r] : parts[k].low[r],
                                          eight_activations(v, 8 * k));
                        }
                        whole[i][r] = add_scaled_dot(whole[i][r], sum, scales[r]);
                    }
                    whole_minima[i] += minima * v->sum;
                }
            }
        }
        product_lanes scales[ROW_REGISTERS];
        spread_to_rows(load_eight_halves(rows->scales), scales);
        const row_group_floats minima = (row_group_floats)load_eight_halves(rows->minima);
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < ROW_REGISTERS; r++) {
                const float scale = vectors[i][s * SUPERBLOCK].scale;
                sums[i][r] += __builtin_convertvector(whole[i][r], product_lanes) * (scales[r] * scale);
            }
            sum_of_minima[i] += minima * whole_minima[i];
        }
    }
    for (int i = 0; i < n; i++) {
        store_rows(out[i], gather_rows(sums[i]) - sum_of_minima[i]);
    }
}
