// Scores and weighted sums of a tile: a few query rows of one KV head, which share what is read of the cache.
//
// Knows: a tile and a block of positions. Refuses to know: which rows and positions there are, and the softmax.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include "float_simd.h"
#include "attention_sizes.h"

enum {
    POSITIONS_AT_ONCE = 4,  // that are scored
    SLICE_REGISTERS = 4     // of a row of acc, that are added to at once
};

// Keys or values of one KV head: float16 [positions][head_dim], a position every `stride` bytes.
struct kv_view {
    const char *data;
    size_t stride;
};

struct tile {
    struct kv_view k, v;
    int row, n_rows;  // the first of its rows
    int stop;         // no row sees a position of the current block from here on
};

INLINE const uint16_t *kv_at(const struct kv_view *kv, int64_t position) {
    return (const uint16_t *)(kv->data + (size_t)position * kv->stride);
}

// Computes q k of n rows and four positions of a block, from `p` on. q: [n][head_dim]. first: the block's first
// position. scores: [n][KV_BLOCK].
INLINE void score_positions(const int n, const float (*q)[MAX_HEAD_DIM], int head_dim, const struct kv_view *k,
                            int64_t first, int p, float (*scores)[KV_BLOCK]) {
    float_lanes sum[TILE_ROWS * POSITIONS_AT_ONCE] = {0};
    for (int d = 0; d < head_dim; d += FLOAT_LANES) {
        float_lanes key[POSITIONS_AT_ONCE];
        for (int i = 0; i < POSITIONS_AT_ONCE; i++) {
            key[i] = load_halves(kv_at(k, first + p + i) + d);
        }
        for (int r = 0; r < n; r++) {
            const float_lanes query = load_floats(q[r] + d);
            for (int i = 0; i < POSITIONS_AT_ONCE; i++) {
                float_lanes *const to = &sum[r * POSITIONS_AT_ONCE + i];
                *to = fused_lanes(query, key[i], *to);
            }
        }
    }
    for (int r = 0; r < n; r++) {
        *(four_floats_unaligned *)(scores[r] + p) = four_sums(sum + r * POSITIONS_AT_ONCE);
    }
}

// Rescales a slice of acc, numbers from `d` on, and adds weight * value of the positions from `begin` up to
// `end` of a block. acc: [n][head_dim]. rescale: [n]. weights: [n][KV_BLOCK].
INLINE void add_slice(const int n, const int n_registers, float (*acc)[MAX_HEAD_DIM], const float *rescale,
                      const float (*weights)[KV_BLOCK], int d, const struct kv_view *v, int64_t first,
                      int begin, int end) {
    float_lanes sum[TILE_ROWS * SLICE_REGISTERS];
    for (int r = 0; r < n; r++) {
        for (int i = 0; i < n_registers; i++) {
            sum[r * n_registers + i] = load_floats(acc[r] + d + i * FLOAT_LANES) * rescale[r];
        }
    }
    for (int p = begin; p < end; p++) {
        const uint16_t *const value = kv_at(v, first + p) + d;
        for (int i = 0; i < n_registers; i++) {
            const float_lanes x = load_halves(value + i * FLOAT_LANES);
            for (int r = 0; r < n; r++) {
                const float_lanes weight = (float_lanes){0} + weights[r][p];
                sum[r * n_registers + i] = fused_lanes(weight, x, sum[r * n_registers + i]);
            }
        }
    }
    for (int r = 0; r < n; r++) {
        for (int i = 0; i < n_registers; i++) {
            store_floats(acc[r] + d + i * FLOAT_LANES, sum[r * n_registers + i]);
        }
    }
}

// The same for all numbers of acc.
INLINE void add_positions(const int n, float (*acc)[MAX_HEAD_DIM], const float *rescale,
                          const float (*weights)[KV_BLOCK], int head_dim, const struct kv_view *v,
                          int64_t first, int begin, int end) {
    int d = 0;
    for (; d + SLICE_REGISTERS * FLOAT_LANES <= head_dim; d += SLICE_REGISTERS * FLOAT_LANES) {
        add_slice(n, SLICE_REGISTERS, acc, rescale, weights, d, v, first, begin, end);
    }
    for (; d < head_dim; d += FLOAT_LANES) {
        add_slice(n, 1, acc, rescale, weights, d, v, first, begin, end);
    }
}

// Calls CALL with the tile's number of rows, known to the compiler.
#define FOR_TILE_ROWS(tile, CALL)          \
    do {                                   \
        if ((tile)->n_rows == TILE_ROWS) { \
            CALL(TILE_ROWS);               \
        } else if ((tile)->n_rows == 2) {  \
            CALL(2);                       \
        } else {                           \
            CALL(1);                       \
        }                                  \
    } while (0)

// Computes a tile's scores at four positions. q: [ATTENTION_ROWS][head_dim]. scores:
// [ATTENTION_ROWS][KV_BLOCK].
static inline void score_tile(const struct tile *t, const float (*q)[MAX_HEAD_DIM], int head_dim, int64_t first,
                              int p, float (*scores)[KV_BLOCK]) {
#define CALL(n) score_positions(n, q + t->row, head_dim, &t->k, first, p, scores + t->row)
    FOR_TILE_ROWS(t, CALL);
#undef CALL
}

// Rescales a tile's rows of acc and adds weight * value. rescale: of the tile's rows. weights:
// [ATTENTION_ROWS][KV_BLOCK]. acc: [ATTENTION_ROWS][head_dim].
static inline void add_tile(const struct tile *t, const float *rescale, const float (*weights)[KV_BLOCK],
                            int head_dim, int64_t first, int begin, int end, float (*acc)[MAX_HEAD_DIM]) {
#define CALL(n) add_positions(n, acc + t->row, rescale, weights + t->row, head_dim, &t->v, first, begin, end)
    FOR_TILE_ROWS(t, CALL);
#undef CALL
}
