// Multiplies panels of sixteen rows with vectors on ARM, in tiles of eight rows that stay in registers.
//
// Knows: a matrix and its vectors. Refuses to know: threads, experts, nodes.
//
// Floats are added as arm_matvec.h adds them, see add_block_whole and add_whole: a vector has the same bits alone and
// among others. That the products of a block are whole numbers is used once more: they are added to the bits of a
// float (MAGIC), which makes them one, and what it is too large by is taken off as the row's scale comes in.

// The compiler's first scheduling makes it run out of registers, so that it copies them.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns")
#endif

#include "arm_matmul_kernel.h"

#if HAS_ARM_PRODUCTS

#include "arm_panel_dots.h"

struct panel {
    struct packed_rows rows[PANEL_ROWS / EIGHT_ROWS];
};

static const int32_t nothing[4] = {0}, magic_bits[4] = {MAGIC_BITS, MAGIC_BITS, MAGIC_BITS, MAGIC_BITS};

// Adds the products of a block with n vectors to their results. result: [n][rows].
INLINE void add_block(const enum ggml_type type, const int n, const struct packed_rows *panel, int64_t b,
                      const struct activation_block *const *vectors, float32x4_t result[][QUARTETS]) {
    const union packed_scales *const of_rows = &panel->blocks[b];
    const int8_t *numbers[MAX_TILE];
    int32x4_t whole[MAX_TILE][QUARTETS];
    for (int i = 0; i < n; i++) {
        numbers[i] = vectors[i][b].numbers;
    }
    multiply_halves(2, arm_panel_types[type].sums_of, n, &panel->halves[2 * b], numbers, magic_bits, whole);
    float32x4_t of_vectors[MAX_TILE];
    for (int i = 0; i < n; i++) {
        of_vectors[i] = load_lane(&vectors[i][b].scale);
    }
    for (int r = 0; r < QUARTETS; r++) {
        const float32x4_t scales = vld1q_f32(of_rows->scales + 4 * r);
        for (int i = 0; i < n; i++) {
            const float32x4_t offsets = vreinterpretq_f32_s32(load_anew(of_rows->offsets + 4 * r));
            const float32x4_t scaled = vfmaq_f32(offsets, vreinterpretq_f32_s32(whole[i][r]), scales);
            result[i][r] = add_times_lane(result[i][r], scaled, of_vectors[i]);
        }
    }
}

// Computes the products of a superblock with n vectors, which stay whole numbers. vectors: [n].
INLINE void multiply_superblock(const enum ggml_type type, const int n, const struct packed_rows *panel,
                                int64_t first, const struct activation_superblock *const *vectors,
                                int32x4_t sum[][QUARTETS]) {
    const struct arm_panel_type t = arm_panel_types[type];
    const int8_t *numbers[MAX_TILE];
    for (int i = 0; i < n; i++) {
        numbers[i] = vectors[i]->numbers;
        for (int r = 0; r < QUARTETS; r++) {
            sum[i][r] = vdupq_n_s32(0);
        }
    }
    if (t.n_factors == 0) {
        multiply_halves(2 * SUPERBLOCK, t.sums_of, n, &panel->halves[2 * first], numbers, nothing, sum);
        return;
    }
    const int n_halves = 2 / t.n_factors;
    for (int b = 0; b < SUPERBLOCK; b++) {
#pragma GCC unroll 2
        for (int s = 0; s < t.n_factors; s++) {
            int32x4_t whole[MAX_TILE][QUARTETS];
            multiply_halves(n_halves, t.sums_of, n, &panel->halves[2 * (first + b) + s], numbers, nothing, whole);
            for (int r = 0; r < QUARTETS; r++) {
                const int32x4_t factors = vld1q_s32(panel->blocks[first + b].factors[s] + 4 * r);
                for (int i = 0; i < n; i++) {
                    sum[i][r] = vmlaq_s32(sum[i][r], whole[i][r], factors);
                }
            }
            for (int i = 0; i < n; i++) {
                numbers[i] += HALF_BLOCK * n_halves;
            }
        }
    }
}

// Computes what the minima of a superblock come to with n vectors.
INLINE void multiply_minima(const int n, const struct packed_superblock *super,
                            const struct activation_superblock *const *vectors, int32x4_t sum[][QUARTETS]) {
    const int8_t *low[MAX_TILE], *high[MAX_TILE];
    int32x4_t upper[MAX_TILE][QUARTETS];
    for (int i = 0; i < n; i++) {
        low[i] = vectors[i]->low_sums;
        high[i] = vectors[i]->high_sums;
    }
    multiply_halves(1, 2, n, &super->minima, high, nothing, upper);
    multiply_halves(1, 2, n, &super->minima, low, nothing, sum);
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < QUARTETS; r++) {
            sum[i][r] = vaddq_s32(sum[i][r], vshlq_n_s32(upper[i][r], 7));
        }
    }
}

// Adds the products of a superblock with n vectors to their results. result: [n][rows].
INLINE void add_superblock(const enum ggml_type type, const int n, const struct packed_rows *panel,
                           int64_t first, const struct activation_block *const *vectors,
                           float32x4_t result[][QUARTETS]) {
    const struct packed_superblock *const super = &panel->superblocks[first / SUPERBLOCK];
    const struct activation_superblock *own[MAX_TILE];
    int32x4_t sum[MAX_TILE][QUARTETS];
    for (int i = 0; i < n; i++) {
        own[i] = superblock_of(vectors[i], first / SUPERBLOCK);
    }
    multiply_superblock(type, n, panel, first, own, sum);
    for (int r = 0; r < QUARTETS; r++) {
        const float32x4_t scales = vld1q_f32(super->scales + 4 * r);
        for (int i = 0; i < n; i++) {
            result[i][r] = add_whole(result[i][r], sum[i][r], 0, scales, own[i]->scale);
        }
    }
    if (!arm_panel_types[type].n_minima) {
        return;
    }
    multiply_minima(n, super, own, sum);
    for (int r = 0; r < QUARTETS; r++) {
        const float32x4_t scales = vld1q_f32(super->minimum_scales + 4 * r);
        for (int i = 0; i < n; i++) {
            result[i][r] = subtract_whole(result[i][r], sum[i][r], scales, own[i]->scale);
        }
    }
}

// Adds the products of eight rows with n vectors to their results. vectors: [n][n_blocks]. out: [n][rows].
INLINE void multiply_tile(const enum ggml_type type, const int n, const struct packed_rows *panel,
                          int64_t n_blocks, const struct activation_block *const *vectors, float *const *out) {
    float32x4_t result[MAX_TILE][QUARTETS];
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < QUARTETS; r++) {
            result[i][r] = vld1q_f32(out[i] + 4 * r);
        }
    }
    for (int64_t b = 0; b < n_blocks; b += arm_types[type].has_superblocks ? SUPERBLOCK : 1) {
        if (arm_types[type].has_superblocks) {
            add_superblock(type, n, panel, b, vectors, result);
        } else {
            add_block(type, n, panel, b, vectors, result);
        }
    }
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < QUARTETS; r++) {
            vst1q_f32(out[i] + 4 * r, result[i][r]);
        }
    }
}

// Multiplies eight rows, or n_rows, with n vectors, n known to the compiler.
INLINE void multiply_eight(const enum ggml_type type, const int n, const struct packed_rows *panel,
                           int64_t n_blocks, const struct activation_block *const *vectors, float *const *out,
                           int64_t n_rows) {
    float spare[MAX_TILE][EIGHT_ROWS], *to[MAX_TILE];  // spare: if there are fewer rows
    for (int i = 0; i < n; i++) {
        to[i] = out[i];
        if (n_rows < EIGHT_ROWS) {
            memcpy(spare[i], out[i], (size_t)n_rows * sizeof(float));
            to[i] = spare[i];
        }
    }
    multiply_tile(type, n, panel, n_blocks, vectors, to);
    for (int i = 0; n_rows < EIGHT_ROWS && i < n; i++) {
        memcpy(out[i], spare[i], (size_t)n_rows * sizeof(float));
    }
}

// Multiplies a panel with all vectors of a product. It has the blocks from `block` on of the rows from `row` on.
INLINE void multiply_panel(const enum ggml_type type, const struct matrix_product *p,
                           const struct panel *panel, int64_t row, int64_t block, int64_t n_blocks) {
    const int most = HAS_ARM_DOT || arm_types[type].has_superblocks ? MAX_TILE : 1;
    for (int64_t first = 0; first < p->n; first += most) {
        const int n = p->n - first < most ? (int)(p->n - first) : most;
        const struct activation_block *vectors[MAX_TILE];
        for (int i = 0; i < n; i++) {
            vectors[i] = vector_of(p, first + i) + block;
        }
        for (int64_t r = 0; r < PANEL_ROWS && row + r < p->matrix.n_rows; r += EIGHT_ROWS) {
            const int64_t left = p->matrix.n_rows - row - r, n_rows = left < EIGHT_ROWS ? left : EIGHT_ROWS;
            const struct packed_rows *const rows = &panel->rows[r / EIGHT_ROWS];
            float *out[MAX_TILE];
            for (int i = 0; i < n; i++) {
                out[i] = result_of(p, first + i) + row + r;
            }
#define CASE(number)                                                                    \
    case number:                                                                        \
        if (number <= MAX_TILE) {                                                       \
            multiply_eight(type, number, rows, n_blocks, vectors, out, n_rows);         \
        }                                                                               \
        break
            switch (n) {  // known to the compiler
                ONE_TO_EIGHT(CASE);
            }
#undef CASE
        }
    }
}

// Not inlined: each type's loops have the registers for themselves.
#define DEFINE(type)                                                                                                  \
    static __attribute__((noinline)) void pack_##type(const struct quant_matrix *w, int64_t row, int64_t first,       \
                                                      int64_t stop, struct panel *out) {                              \
        pack_panel(type, w, row, first, stop, out->rows);                                                             \
    }                                                                                                                 \
    static __attribute__((noinline)) void multiply_##type(const struct matrix_product *p, const struct panel *panel,  \
                                                          int64_t row, int64_t block, int64_t n_blocks) {             \
        multiply_panel(type, p, panel, row, block, n_blocks);                                                         \
    }                                                                                                                 \
    _Static_assert(true, "")
EACH_ARM_TYPE(DEFINE);
#undef DEFINE

void multiply_rows(const struct matrix_product *p, int64_t first, int64_t stop) {
    struct panel panel __attribute__((aligned(64)));
    for (int64_t i = 0; i < p->n; i++) {
        memset(result_of(p, i) + first, 0, (size_t)(stop - first) * sizeof(float));
    }
    for (int64_t block = 0; block < p->matrix.n_blocks; block += PANEL_BLOCKS) {
        const int64_t n = p->matrix.n_blocks - block < PANEL_BLOCKS ? p->matrix.n_blocks - block : PANEL_BLOCKS;
        for (int64_t row = first; row < stop; row += PANEL_ROWS) {
#define CASE(type)                                              \
    case type:                                                  \
        pack_##type(&p->matrix, row, block, block + n, &panel); \
        multiply_##type(p, &panel, row, block, n);              \
        break
            switch (p->matrix.type) {  // known to the compiler
                EACH_ARM_TYPE(CASE);
                default: break;
            }
#undef CASE
        }
    }
}

#endif
