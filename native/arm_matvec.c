// Multiplies matrices with few vectors on ARM: eight rows at once.
//
// Knows: the rows that are multiplied at once, and how their products become results. Refuses to know: how the blocks
// of a type are unpacked, nodes and threads.

// GCC would load and compute ahead until registers are stored and loaded again: a tenth more work. Cores look ahead by
// themselves.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns", "no-tree-pre")
#endif

#include "arm_matvec.h"

#if HAS_ARM_PRODUCTS

#include <string.h>

#include "arm_dot.h"
#include "arm_factors.h"

enum {
    TILES = 2,  // that share what is read of the vectors
    SET_ROWS = TILES * TILE_ROWS
};

// Returns the tiles of the rows from `row` on; the last rows stand for those that lack.
INLINE void find_tiles(const enum ggml_type type, const enum row_layout layout, const struct quant_matrix *w, int64_t row, int64_t n_rows,
                       struct arm_rows out[TILES]) {
    for (int t = 0; t < TILES; t++) {
        const int64_t own = t * TILE_ROWS < n_rows ? row + t * TILE_ROWS : row;
        const int in_group = layout != ROW_BY_ROW && arm_types[type].group_rows == SET_ROWS ? t : 0;
        out[t].tile = in_group;
        for (int r = 0; r < TILE_ROWS; r++) {
            const int64_t i = layout != ROW_BY_ROW            ? own - in_group * TILE_ROWS
                              : own + r < w->n_rows ? own + r : w->n_rows - 1;
            out[t].rows[r] = w->data + (size_t)i * w->row_bytes;
        }
    }
}

// Stores the results of n_rows rows, SET_ROWS at most. From a copy: sums whose address is taken would be stored after
// every block.
INLINE void store_rows(float *out, const float32x4_t sums[TILES], int64_t n_rows) {
    float all[SET_ROWS];
    for (int t = 0; t < TILES; t++) {
        vst1q_f32(all + t * TILE_ROWS, sums[t]);
    }
    memcpy(out, all, (size_t)n_rows * sizeof(float));
}

// Multiplies rows of blocks with n vectors. vectors: [n][n_blocks]. out: [n][n_rows].
INLINE void matvec_arm_blocks(const enum ggml_type type, const enum row_layout layout, const int n,
                              const struct arm_rows tiles[TILES], int64_t n_rows,
                              const struct activation_block *const *vectors, int64_t n_blocks, float *const *out) {
    const bool corrects = arm_types[type].zero_point && !is_flipped(type, layout);
    const int shift = is_flipped(type, layout) ? 4 : 0;
    float32x4_t sums[MAX_VECTORS][TILES] = {0};
    for (int64_t b = 0; b < n_blocks; b++) {
#pragma GCC unroll 2
        for (int t = 0; t < TILES; t++) {
            int8x16_t numbers[2][TILE_ROWS];
            unpack_block(type, layout, &tiles[t], b, numbers);
            const float32x4_t scales = arm_scales(type, layout, &tiles[t], b);
            for (int i = 0; i < n; i++) {
                const struct activation_block *const v = &vectors[i][b];
                const int8x16_t x[2] = {vld1q_s8(v->numbers), vld1q_s8(v->numbers + QUANT_BLOCK / 2)};
                const int32_t first = corrects ? v->corrections[0] : 0;
                const int32x4_t whole = dots_of_rows(layout, arm_largest(type), 2, numbers, x, first);
                sums[i][t] = add_block_whole(sums[i][t], whole, shift, scales, v->scale);
            }
        }
    }
    for (int i = 0; i < n; i++) {
        store_rows(out[i], sums[i], n_rows);
    }
}

// Adds the products of block b of superblock s of four rows with n vectors, times their factors.
INLINE void add_superblock_block(const enum ggml_type type, const enum row_layout layout, const int n,
                                 const struct arm_rows *w, int64_t s, const int b,
                                 const int8x16_t numbers[2][TILE_ROWS], const struct arm_factors *factors,
                                 const struct activation_block *const *vectors, int32x4_t *whole) {
    const int n_factors = has_two_factors(type) ? 2 : 1, n_halves = 2 / n_factors;
    const bool corrects = arm_types[type].zero_point;
#pragma GCC unroll 2
    for (int k = 0; k < n_factors; k++) {
        const int32x4_t factor = factor_of_rows(type, layout, w, s, factors, b * n_factors + k);
        for (int i = 0; i < n; i++) {
            const struct activation_superblock *const v = superblock_of(vectors[i], s);
            const int8_t *const from = v->numbers + b * QUANT_BLOCK + k * QUANT_BLOCK / 2;
            const int8x16_t x[2] = {vld1q_s8(from), vld1q_s8(n_halves == 2 ? from + QUANT_BLOCK / 2 : from)};
            const int32_t first = corrects ? v->corrections[2 * b + k] : 0;
            const int32x4_t dots = dots_of_rows(layout, arm_largest(type), n_halves, numbers + k, x, first);
            whole[i] = vmlaq_s32(whole[i], dots, factor);
        }
    }
}

// Returns the products of four rows' minima with the sums of a vector's numbers.
INLINE int32x4_t dots_of_minima(const enum ggml_type type, const struct arm_factors *factors,
                                const struct activation_superblock *v) {
    int32x4_t low = vdupq_n_s32(0), high = low;
    for (int k = 0; k < (has_two_factors(type) ? 4 : 2); k++) {
        const int8x16_t minima = vreinterpretq_s8_u8(factors->minima[k]);
        low = add_quad_dots(low, minima, v->low_sums + 4 * k);
        high = add_quad_dots(high, minima, v->high_sums + 4 * k);
    }
    return vaddq_s32(low, vshlq_n_s32(high, 7));
}

// Adds superblock s to the results of four rows.
INLINE void finish_superblock(const enum ggml_type type, const enum row_layout layout, const int n,
                              const struct arm_rows *w, int64_t s, const struct arm_factors *factors,
                              const struct activation_block *const *vectors, const int32x4_t *whole,
                              float32x4_t sums[][TILES], const int t) {
    const float32x4_t scales = arm_scales(type, layout, w, s);
    for (int i = 0; i < n; i++) {
        const struct activation_superblock *const v = superblock_of(vectors[i], s);
        sums[i][t] = add_whole(sums[i][t], whole[i], 0, scales, v->scale);
        if (has_minima(type)) {
            const int32x4_t minima = dots_of_minima(type, factors, v);
            const float32x4_t of_minima = arm_minimum_scales(type, layout, w, s);
            sums[i][t] = subtract_whole(sums[i][t], minima, of_minima, v->scale);
        }
    }
}

// Multiplies rows of superblocks with n vectors. vectors: [n][n_super]. out: [n][n_rows].
INLINE void matvec_arm_superblocks(const enum ggml_type type, const enum row_layout layout, const int n,
                                   const struct arm_rows tiles[TILES], int64_t n_rows,
                                   const struct activation_block *const *vectors, int64_t n_super,
                                   float *const *out) {
    float32x4_t sums[MAX_VECTORS][TILES] = {0};
    for (int64_t s = 0; s < n_super; s++) {
#pragma GCC unroll 2
        for (int t = 0; t < TILES; t++) {
            struct arm_factors factors;
            int32x4_t whole[MAX_VECTORS] = {0};
            factors_of_rows(type, layout, &tiles[t], s, &factors);
#pragma GCC unroll 4
            for (int p = 0; p < SUPERBLOCK / 2; p++) {
                int8x16_t numbers[2][2][TILE_ROWS];
                unpack_pair(type, layout, &tiles[t], s, p, numbers);
#pragma GCC unroll 2
                for (int k = 0; k < 2; k++) {
                    add_superblock_block(type, layout, n, &tiles[t], s, block_of_pair(type, p, k), numbers[k],
                                         &factors, vectors, whole);
                }
            }
            finish_superblock(type, layout, n, &tiles[t], s, &factors, vectors, whole, sums, t);
        }
    }
    for (int i = 0; i < n; i++) {
        store_rows(out[i], sums[i], n_rows);
    }
}

// ---------------------------------------------------------------- kernels

// Two kernels for each type and layout, which the compiler knows: for one vector, and for any number.
typedef void kernel(int n, const struct quant_matrix *w, int64_t row, int64_t n_rows,
                    const struct activation_block *const *vectors, float *const *out);

INLINE void multiply_set(const enum ggml_type type, const enum row_layout layout, const int n,
                         const struct quant_matrix *w, int64_t row, int64_t n_rows,
                         const struct activation_block *const *vectors, float *const *out) {
    struct arm_rows tiles[TILES];
    find_tiles(type, layout, w, row, n_rows, tiles);
    if (arm_types[type].has_superblocks) {
        matvec_arm_superblocks(type, layout, n, tiles, n_rows, vectors, w->n_blocks / SUPERBLOCK, out);
    } else {
        matvec_arm_blocks(type, layout, n, tiles, n_rows, vectors, w->n_blocks, out);
    }
}

#define KERNEL(type, layout, name, number)                                                                          \
    static void type##_##layout##_##name(int n, const struct quant_matrix *w, int64_t row, int64_t n_rows,          \
                                         const struct activation_block *const *vectors, float *const *out) {        \
        (void)n;                                                                                                    \
        multiply_set(type, layout, number, w, row, n_rows, vectors, out);                                           \
    }
#define KERNELS(type, layout) KERNEL(type, layout, one, 1) KERNEL(type, layout, some, n)
#define NAMES(type, layout) {type##_##layout##_one, type##_##layout##_some},

#define DEFINE_ROWS(type) KERNELS(type, ROW_BY_ROW)
#define LIST_ROWS(type) [type] = {NAMES(type, ROW_BY_ROW)},
#if HAS_ARM_DOT
#define DEFINE_BY_FOUR(type) DEFINE_ROWS(type) KERNELS(type, ROWS_BY_FOUR_BYTES)
#define DEFINE_BY_EIGHT(type) DEFINE_BY_FOUR(type) KERNELS(type, ROWS_BY_EIGHT_BYTES)
#define LIST_BY_FOUR(type) [type] = {NAMES(type, ROW_BY_ROW) NAMES(type, ROWS_BY_FOUR_BYTES)},
#define LIST_BY_EIGHT(type) \
    [type] = {NAMES(type, ROW_BY_ROW) NAMES(type, ROWS_BY_FOUR_BYTES) NAMES(type, ROWS_BY_EIGHT_BYTES)},
#else
#define DEFINE_BY_FOUR DEFINE_ROWS
#define DEFINE_BY_EIGHT DEFINE_ROWS
#define LIST_BY_FOUR LIST_ROWS
#define LIST_BY_EIGHT LIST_ROWS
#endif

// By the layouts that llama.cpp may give them; see has_layout.
#define EACH_TYPE(ROWS, BY_FOUR, BY_EIGHT) \
    BY_EIGHT(GGML_TYPE_Q4_0)               \
    BY_EIGHT(GGML_TYPE_Q8_0)               \
    BY_EIGHT(GGML_TYPE_Q4_K)               \
    BY_EIGHT(GGML_TYPE_Q5_K)               \
    BY_EIGHT(GGML_TYPE_Q6_K)               \
    BY_FOUR(GGML_TYPE_IQ4_NL)              \
    BY_FOUR(GGML_TYPE_MXFP4)               \
    ROWS(GGML_TYPE_Q5_0)                   \
    ROWS(GGML_TYPE_Q2_K)                   \
    ROWS(GGML_TYPE_Q3_K)                   \
    ROWS(GGML_TYPE_IQ4_XS)

EACH_TYPE(DEFINE_ROWS, DEFINE_BY_FOUR, DEFINE_BY_EIGHT)

static kernel *const kernels[][3][2] = {EACH_TYPE(LIST_ROWS, LIST_BY_FOUR, LIST_BY_EIGHT)};

void multiply_arm(int n, const struct quant_matrix *w, const struct activation_block *const *vectors,
                  float *const *out, int64_t first, int64_t stop) {
    kernel *const multiply = kernels[w->type][w->layout][n > 1];
    for (int64_t row = first; row < stop; row += SET_ROWS) {
        float *to[MAX_VECTORS];
        for (int i = 0; i < n; i++) {
            to[i] = out[i] + row;
        }
        multiply(n, w, row, stop - row < SET_ROWS ? stop - row : SET_ROWS, vectors, to);
    }
}

#endif
