// Products with few vectors on ARM: eight rows at once.
//
// Knows: the rows that are multiplied at once. Refuses to know: how the blocks of a type are unpacked, nodes and
// threads.

#pragma once

#include <string.h>

#include "arm_activations.h"
#include "arm_dot.h"
#include "arm_types.h"
#include "matrix_product.h"

enum {
    MAX_VECTORS = 4,  // that share what is read; more are for matmul.c
    TILES = 2,        // that share what is read of the vectors
    SET_ROWS = TILES * TILE_ROWS
};

// Returns the tiles of the rows from `row` on; the last rows stand for those that lack.
INLINE void find_tiles(const enum row_layout layout, const struct quant_matrix *w, int64_t row, int64_t n_rows,
                       struct arm_rows out[TILES]) {
    for (int t = 0; t < TILES; t++) {
        const int64_t own = t * TILE_ROWS < n_rows ? row + t * TILE_ROWS : row;
        const int in_group = layout != ROW_BY_ROW && arm_types[w->type].group_rows == SET_ROWS ? t : 0;
        out[t].tile = in_group;
        for (int r = 0; r < TILE_ROWS; r++) {
            const int64_t i = layout != ROW_BY_ROW            ? own - in_group * TILE_ROWS
                              : own + r < w->n_rows ? own + r : w->n_rows - 1;
            out[t].rows[r] = w->data + (size_t)i * w->row_bytes;
        }
    }
}

// Stores the results of n_rows rows, SET_ROWS at most.
INLINE void store_rows(float *out, const float32x4_t sums[TILES], int64_t n_rows) {
    memcpy(out, sums, (size_t)n_rows * sizeof(float));
}

// Multiplies rows of blocks with n vectors. vectors: [n][n_blocks]. out: [n][n_rows].
INLINE void matvec_arm_blocks(const enum ggml_type type, const enum row_layout layout, const int n,
                              const struct arm_rows tiles[TILES], int64_t n_rows,
                              const struct activation_block *const *vectors, int64_t n_blocks, float *const *out) {
    const int32_t zero_point = arm_zero_point(type, layout);
    const int shift = arm_shifted_by(type, layout);
    float32x4_t sums[MAX_VECTORS][TILES] = {0};
    for (int64_t b = 0; b < n_blocks; b++) {
        for (int t = 0; t < TILES; t++) {
            int8x16_t numbers[2][TILE_ROWS];
            unpack_block(type, layout, &tiles[t], b, numbers);
            const float32x4_t scales = arm_scales(type, layout, &tiles[t], b);
            for (int i = 0; i < n; i++) {
                const struct activation_block *const v = &vectors[i][b];
                const int8x16_t x[2] = {vld1q_s8(v->numbers), vld1q_s8(v->numbers + QUANT_BLOCK / 2)};
                const int32_t first = zero_point ? -zero_point * (v->corrections[0] + v->corrections[1]) : 0;
                const int32x4_t whole = dots_of_rows(layout, arm_largest(type), 2, numbers, x, first);
                sums[i][t] = add_whole(sums[i][t], whole, shift, scales, v->scale);
            }
        }
    }
    for (int i = 0; i < n; i++) {
        store_rows(out[i], sums[i], n_rows);
    }
}

#define EACH_ARM_BLOCK_TYPE(CASE) \
    CASE(GGML_TYPE_Q4_0);         \
    CASE(GGML_TYPE_Q8_0)

INLINE void multiply_set(const enum row_layout layout, const int n, const struct quant_matrix *w,
                         const struct activation_block *const *vectors, float *const *out, int64_t row,
                         int64_t n_rows) {
    struct arm_rows tiles[TILES];
    find_tiles(layout, w, row, n_rows, tiles);
#define CASE(type) \
    case type: matvec_arm_blocks(type, layout, n, tiles, n_rows, vectors, w->n_blocks, out); break
    switch (w->type) {  // known to the compiler
        EACH_ARM_BLOCK_TYPE(CASE);
        default: break;
    }
#undef CASE
}

// Multiplies rows, from `first` up to `stop`, of a matrix with n vectors. vectors: [n][n_blocks]. out:
// [n][all rows].
INLINE void multiply_some(const int n, const struct quant_matrix *w,
                          const struct activation_block *const *vectors, float *const *out, int64_t first,
                          int64_t stop) {
    for (int64_t row = first; row < stop; row += SET_ROWS) {
        const int64_t n_rows = stop - row < SET_ROWS ? stop - row : SET_ROWS;
        float *to[MAX_VECTORS];
        for (int v = 0; v < n; v++) {
            to[v] = out[v] + row;
        }
        switch (w->layout) {
            case ROW_BY_ROW: multiply_set(ROW_BY_ROW, n, w, vectors, to, row, n_rows); break;
#if HAS_ARM_DOT
            case ROWS_BY_FOUR_BYTES: multiply_set(ROWS_BY_FOUR_BYTES, n, w, vectors, to, row, n_rows); break;
            case ROWS_BY_EIGHT_BYTES: multiply_set(ROWS_BY_EIGHT_BYTES, n, w, vectors, to, row, n_rows); break;
#endif
            default: break;
        }
    }
}
