// Multiplies panels of sixteen rows with vectors, in tiles that stay in registers.
//
// Knows: a matrix and its vectors. Refuses to know: threads, experts, nodes.
//
// The products of a block are a whole number, which the scales of both sides make a term of the result. A panel
// has a lane for each row, so sixteen rows are scaled at once, and nothing is shuffled.

#include "matmul_kernel.h"

#if HAS_PRODUCTS

// Vectors that share what is read of a panel: what fits the registers. Wide: of types that need more of them.
#if defined(__AVX512VNNI__)
enum { MAX_TILE = 8, MAX_WIDE_TILE = 8 };
#elif HAS_VNNI
enum { MAX_TILE = 3, MAX_WIDE_TILE = 3 };
#else
enum { MAX_TILE = 3, MAX_WIDE_TILE = 2 };
#endif

enum { PANEL_BLOCKS = 32 };  // that are packed at a time: they stay in the first cache

struct panel {
    struct panel_block blocks[PANEL_BLOCKS];
    struct panel_superblock superblocks[PANEL_BLOCKS / SUPERBLOCK];
};

// Returns four numbers of a vector, the same in every lane.
INLINE int_lanes vector_quad(const struct activation_block *v, int q) {
    int32_t x;
    memcpy(&x, v->numbers + 4 * q, sizeof x);
    return (int_lanes){0} + x;
}

// Adds the products of the quads from `first` up to `stop` of a panel with n vectors. sum: [n][PANEL_ROWS].
INLINE void add_quads(const bool has_signs, const int n, const struct panel_block *panel,
                      const struct activation_block *const *vectors, int64_t b, const int first, const int stop,
                      int_lanes sum[][PANEL_REGISTERS]) {
#pragma GCC unroll 8
    for (int q = first; q < stop; q++) {
        for (int r = 0; r < PANEL_REGISTERS; r++) {
            const int_lanes rows = *(const int_lanes *)panel->numbers[q][r * INT_LANES];
            const int_lanes signs = *(const int_lanes *)panel->signs[has_signs ? q : 0][r * INT_LANES];
            for (int i = 0; i < n; i++) {
                const int_lanes x = vector_quad(&vectors[i][b], q);
                sum[i][r] = has_signs ? add_signed_dot(sum[i][r], rows, signs, x) : add_dot(sum[i][r], rows, x);
            }
        }
    }
}

// Returns what the zero point needs added to the products of the quads that have scale `s`.
INLINE int32_t correction(const struct panel_type type, const struct activation_block *v, int s) {
    return !type.zero_point ? 0 : type.n_scales == 2 ? v->corrections[s] : v->corrections[0] + v->corrections[1];
}

// Computes the products of the quads that have scale `s` with n vectors. whole: [n][PANEL_ROWS].
INLINE void multiply_block(const struct panel_type type, const int n, const struct panel_block *panel,
                           const struct activation_block *const *vectors, int64_t b, const int s,
                           int_lanes whole[][PANEL_REGISTERS]) {
    const int first = s * QUADS / type.n_scales, stop = (s + 1) * QUADS / type.n_scales;
    const bool at_once = HAS_VNNI || type.has_signs;
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < PANEL_REGISTERS; r++) {
            whole[i][r] = (int_lanes){0} + correction(type, &vectors[i][b], s);
        }
    }
    if (at_once) {
        add_quads(type.has_signs, n, panel, vectors, b, first, stop, whole);
        return;
    }
#pragma GCC unroll 4
    for (int q = first; q < stop; q += type.quads_in_16_bits) {
        int_lanes sum[MAX_TILE][PANEL_REGISTERS] = {0};
        add_quads(false, n, panel, vectors, b, q, q + type.quads_in_16_bits, sum);
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < PANEL_REGISTERS; r++) {
                whole[i][r] += widened_dot(sum[i][r]);
            }
        }
    }
}

// Adds the products of a block with n vectors to their results. result: [n][PANEL_ROWS].
INLINE void add_block(const struct panel_type type, const int n, const struct panel_block *panel,
                      const struct activation_block *const *vectors, int64_t b,
                      product_lanes result[][PANEL_REGISTERS]) {
    int_lanes whole[MAX_TILE][PANEL_REGISTERS];
    multiply_block(type, n, panel, vectors, b, 0, whole);
    const product_lanes_unaligned *const scales = (const product_lanes_unaligned *)panel->scales[0];
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < PANEL_REGISTERS; r++) {
            const product_lanes x = __builtin_convertvector(whole[i][r], product_lanes);
            result[i][r] = fused(x, scales[r] * vectors[i][b].scale, result[i][r]);
        }
    }
}

// Adds the products of a block of Q4_K, times its factors. Without VNNI all quads' fit 16 bits, with it half of
// them.
INLINE void add_q4_k_block(const int n, const struct panel_block *panel,
                           const struct activation_block *const *vectors, int64_t b,
                           int_lanes sum[][PANEL_REGISTERS]) {
    const int_lanes_unaligned *const factors = (const int_lanes_unaligned *)panel->factors[0];
    const int at_once = HAS_VNNI ? QUADS / 2 : QUADS;
#pragma GCC unroll 2
    for (int q = 0; q < QUADS; q += at_once) {
        int_lanes dot[MAX_TILE][PANEL_REGISTERS] = {0};
        add_quads(false, n, panel, vectors, b, q, q + at_once, dot);
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < PANEL_REGISTERS; r++) {
                sum[i][r] = add_scaled_dot(sum[i][r], dot[i][r], factors[r]);
            }
        }
    }
}

// Adds the products of a block of a row type, times its factors.
INLINE void add_row_block(const struct panel_type type, const int n, const struct panel_block *panel,
                          const struct activation_block *const *vectors, int64_t b,
                          int_lanes sum[][PANEL_REGISTERS]) {
#pragma GCC unroll 2
    for (int s = 0; s < type.n_scales; s++) {
        int_lanes whole[MAX_TILE][PANEL_REGISTERS];
        multiply_block(type, n, panel, vectors, b, s, whole);
        const int_lanes_unaligned *const factors = (const int_lanes_unaligned *)panel->factors[s];
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < PANEL_REGISTERS; r++) {
                sum[i][r] = type.is_small ? add_scaled_dot(sum[i][r], whole[i][r], factors[r])
                                          : sum[i][r] + whole[i][r] * factors[r];
            }
        }
    }
}

// The same for sums of two numbers of 16 bits, which are scaled before they are joined.
INLINE void add_row_block_in_16_bits(const struct panel_type type, const int n, const struct panel_block *panel,
                                     const struct activation_block *const *vectors, int64_t b,
                                     int_lanes sum[][PANEL_REGISTERS]) {
    const int at_once = type.quads_in_16_bits;
#pragma GCC unroll 4
    for (int q = 0; q < QUADS; q += at_once) {
        const int s = q * type.n_scales / QUADS;
        const int_lanes_unaligned *const factors = (const int_lanes_unaligned *)panel->factors[s];
        int_lanes dot[MAX_TILE][PANEL_REGISTERS];
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < PANEL_REGISTERS; r++) {
                dot[i][r] = (int_lanes){0} + (correction(type, &vectors[i][b], s) & 0xffff);
            }
        }
        add_quads(false, n, panel, vectors, b, q, q + at_once, dot);
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < PANEL_REGISTERS; r++) {
                sum[i][r] = add_scaled_dot(sum[i][r], dot[i][r], factors[r]);
            }
        }
    }
}

// Takes the minima of a superblock off the results.
INLINE void add_minima(const int n, const struct panel_superblock *super,
                       const struct activation_block *const *vectors, int64_t first,
                       product_lanes result[][PANEL_REGISTERS]) {
    int_lanes sum[MAX_TILE][PANEL_REGISTERS] = {0};
    for (int b = 0; b < SUPERBLOCK; b++) {
        const int_lanes_unaligned *const minima = (const int_lanes_unaligned *)super->minima[b];
        for (int i = 0; i < n; i++) {
            const int_lanes x = (int_lanes){0} + vectors[i][first + b].corrections[0];  // see pair_corrections
            for (int r = 0; r < PANEL_REGISTERS; r++) {
                sum[i][r] = add_scaled_dot(sum[i][r], x, minima[r]);
            }
        }
    }
    const product_lanes_unaligned *const scales = (const product_lanes_unaligned *)super->scales[1];
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < PANEL_REGISTERS; r++) {
            const product_lanes x = __builtin_convertvector(sum[i][r], product_lanes);
            result[i][r] = fused(x, scales[r] * vectors[i][first].scale, result[i][r]);
        }
    }
}

// Adds the products of a superblock of a row type, whose sums stay whole numbers up to its end.
INLINE void add_row_superblock(const struct panel_type type, const int n, const struct panel_block *panel,
                               const struct panel_superblock *super, const struct activation_block *const *vectors,
                               int64_t first, product_lanes result[][PANEL_REGISTERS]) {
    int_lanes sum[MAX_TILE][PANEL_REGISTERS] = {0};
    for (int b = 0; b < SUPERBLOCK; b++) {
        if (!HAS_VNNI && type.is_small) {
            add_row_block_in_16_bits(type, n, &panel[b], vectors, first + b, sum);
        } else {
            add_row_block(type, n, &panel[b], vectors, first + b, sum);
        }
    }
    const product_lanes_unaligned *const scales = (const product_lanes_unaligned *)super->scales[0];
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < PANEL_REGISTERS; r++) {
            const product_lanes x = __builtin_convertvector(sum[i][r], product_lanes);
            result[i][r] = fused(x, scales[r] * vectors[i][first].scale, result[i][r]);
        }
    }
    if (type.has_minima) {
        add_minima(n, super, vectors, first, result);
    }
}

// Adds the products of a superblock of Q4_K, whose sums stay whole numbers up to its end.
INLINE void add_q4_k_superblock(const int n, const struct panel_block *panel, const struct panel_superblock *super,
                                const struct activation_block *const *vectors, int64_t first,
                                product_lanes result[][PANEL_REGISTERS]) {
    int_lanes sum[MAX_TILE][PANEL_REGISTERS] = {0};
    product_lanes sum_of_minima[MAX_TILE][PANEL_REGISTERS] = {0};
    for (int64_t b = first; b < first + SUPERBLOCK; b++, panel++) {
        add_q4_k_block(n, panel, vectors, b, sum);
        const product_lanes_unaligned *const minima = (const product_lanes_unaligned *)panel->scales[1];
        for (int i = 0; i < n; i++) {
            for (int r = 0; r < PANEL_REGISTERS; r++) {
                const product_lanes x = (product_lanes){0} + vectors[i][b].sum;
                sum_of_minima[i][r] = fused(minima[r], x, sum_of_minima[i][r]);
            }
        }
    }
    const product_lanes_unaligned *const scales = (const product_lanes_unaligned *)super->scales[0];
    const product_lanes_unaligned *const minima = (const product_lanes_unaligned *)super->scales[1];
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < PANEL_REGISTERS; r++) {
            const product_lanes x = __builtin_convertvector(sum[i][r], product_lanes);
            result[i][r] = fused(x, scales[r] * vectors[i][first].scale, result[i][r]);
            result[i][r] = fused_minus(minima[r], sum_of_minima[i][r], result[i][r]);
        }
    }
}

// Adds the products of a panel with n vectors. vectors: [n][n_blocks]. out: [n][PANEL_ROWS].
INLINE void multiply_tile(const struct panel_type type, const int n, struct panel *panel, int64_t n_blocks,
                          const struct activation_block *const *vectors, float *const *out) {
    product_lanes result[MAX_TILE][PANEL_REGISTERS];
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < PANEL_REGISTERS; r++) {
            result[i][r] = *(const product_lanes_unaligned *)(out[i] + r * INT_LANES);
        }
    }
    for (int64_t b = 0; b < n_blocks; b += type.is_super ? SUPERBLOCK : 1) {
        const struct panel_superblock *const super = &panel->superblocks[b / SUPERBLOCK];
        if (type.is_row) {
            add_row_superblock(type, n, &panel->blocks[b], super, vectors, b, result);
        } else if (type.is_super) {
            add_q4_k_superblock(n, &panel->blocks[b], super, vectors, b, result);
        } else {
            add_block(type, n, &panel->blocks[b], vectors, b, result);
        }
    }
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < PANEL_REGISTERS; r++) {
            *(product_lanes_unaligned *)(out[i] + r * INT_LANES) = result[i][r];
        }
    }
}

// Multiplies a panel with all vectors of a product, `most` at a time. The panel has the blocks from `block` on
// of the rows from `row` on.
INLINE void multiply_panel(const struct panel_type type, const int most, const struct matrix_product *p,
                           struct panel *panel, int64_t row, int64_t block, int64_t n_blocks) {
    const int64_t n_rows = p->matrix.n_rows - row;
    float spare[MAX_TILE][PANEL_ROWS];  // results of a panel that lacks rows
    for (int64_t first = 0; first < p->n; first += most) {
        const int n = p->n - first < most ? (int)(p->n - first) : most;
        const struct activation_block *vectors[MAX_TILE];
        float *out[MAX_TILE];
        for (int i = 0; i < n; i++) {
            vectors[i] = vector_of(p, first + i) + block;
            out[i] = result_of(p, first + i) + row;
            if (n_rows < PANEL_ROWS) {
                memcpy(spare[i], out[i], (size_t)n_rows * sizeof(float));
                out[i] = spare[i];
            }
        }
#define CASE(number)                                                    \
    case number:                                                        \
        if (number <= most) {                                           \
            multiply_tile(type, number, panel, n_blocks, vectors, out); \
        }                                                               \
        break
        switch (n) {  // known to the compiler
            ONE_TO_EIGHT(CASE);
        }
#undef CASE
        for (int i = 0; n_rows < PANEL_ROWS && i < n; i++) {
            memcpy(result_of(p, first + i) + row, spare[i], (size_t)n_rows * sizeof(float));
        }
    }
}

void multiply_rows(const struct matrix_product *p, int64_t first, int64_t stop) {
    struct panel panel __attribute__((aligned(64)));
    for (int64_t i = 0; i < p->n; i++) {
        memset(result_of(p, i) + first, 0, (size_t)(stop - first) * sizeof(float));
    }
    for (int64_t block = 0; block < p->matrix.n_blocks; block += PANEL_BLOCKS) {
        const int64_t n = p->matrix.n_blocks - block < PANEL_BLOCKS ? p->matrix.n_blocks - block : PANEL_BLOCKS;
        for (int64_t row = first; row < stop; row += PANEL_ROWS) {
            pack_panel(&p->matrix, row, block, block + n, panel.blocks, panel.superblocks);
#define CASE_OF(type, most) \
    case type: multiply_panel(panel_type_of(type), most, p, &panel, row, block, n); break
#define CASE(type) CASE_OF(type, MAX_WIDE_TILE)
            switch (p->matrix.type) {  // known to the compiler
                CASE_OF(GGML_TYPE_Q4_0, MAX_TILE);
                CASE_OF(GGML_TYPE_Q4_K, MAX_TILE);
                EACH_BLOCK_TYPE(CASE);
                EACH_ROW_TYPE(CASE);
                default: break;
            }
#undef CASE
#undef CASE_OF
        }
    }
}

#endif
