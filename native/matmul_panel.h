// Packs rows of quantized weights into panels: sixteen rows side by side, so that each lane of a register is a
// row's.
//
// Knows: the layouts of the types, and of a panel. Refuses to know: what a panel is multiplied with.

#pragma once

#include "matrix_product.h"
#include "block_types.h"

#if HAS_PRODUCTS

enum {
    PANEL_ROWS = 16,                           // that are packed side by side
    PANEL_REGISTERS = PANEL_ROWS / INT_LANES,  // one lane for each row
    QUADS = QUANT_BLOCK / 4,                   // of a block
    PANEL_GROUPS = PANEL_ROWS / ROW_GROUP
};

// How blocks of a type are packed. A packed number is not negative.
struct panel_type {
    bool is_super;
    bool is_row;           // of row_types.h
    int n_scales;          // of a row's block, each of as many numbers
    bool has_minima;
    int32_t zero_point;    // what a weight of zero is packed as
    bool has_signs;        // numbers are packed without their signs, which are beside them
    int quads_in_16_bits;  // whose products' sum fits 16 bits; not needed with VNNI or if has_signs
    bool is_small;         // see row_types.h
};

INLINE struct panel_type panel_type_of(const enum ggml_type type) {
    if (is_row_type(type)) {
        const struct row_type t = row_types[type];
        return (struct panel_type){.is_super = true,
                                   .is_row = true,
                                   .n_scales = t.n_scales,
                                   .has_minima = t.has_minima,
                                   .zero_point = raised_by(type),
                                   .has_signs = t.is_signed && !HAS_VNNI,
                                   .quads_in_16_bits = t.quads_in_16_bits,
                                   .is_small = t.is_small};
    }
    if (is_block_type(type)) {
        const struct block_type t = block_types[type];
        return (struct panel_type){.n_scales = 1,
                                   .zero_point = block_raised_by(type),
                                   .has_signs = t.is_signed && !HAS_VNNI,
                                   .quads_in_16_bits = t.quads_in_16_bits};
    }
    const bool is_q4_k = type == GGML_TYPE_Q4_K;
    return (struct panel_type){.is_super = is_q4_k,
                               .n_scales = 1,
                               .has_minima = is_q4_k,
                               .zero_point = is_q4_k ? 0 : 8,
                               .quads_in_16_bits = 8};
}

// What sums of activations count in their corrections.
INLINE int32_t zero_point_of_corrections(enum ggml_type type) {
    return has_paired_corrections(type) ? 1 : panel_type_of(type).zero_point;
}

// Four numbers of each row of a panel.
typedef uint8_t panel_quad[PANEL_ROWS][4];

// A block of sixteen rows. Blocks of superblocks have factors, whole numbers, in place of scales.
struct panel_block {
    union {
        float scales[2][PANEL_ROWS];
        int32_t factors[2][PANEL_ROWS];
    };  // [1]: the second factor, or the minimum, a float
    panel_quad numbers[QUADS];
    panel_quad signs[HAS_VNNI ? 1 : QUADS];
};

// What sixteen rows' superblocks have besides. scales[1]: of the minima. minima: of each block, of its first
// and its last sixteen numbers, as two numbers of 16 bits.
struct panel_superblock {
    float scales[2][PANEL_ROWS];
    int32_t minima[SUPERBLOCK][PANEL_ROWS];
};

// ---------------------------------------------------------------- packing

INLINE void store_quad(panel_quad *numbers, int group, int quad, __m256i v) {
    _mm256_storeu_si256((__m256i *)numbers[quad][group * ROW_GROUP], v);
}

// Transposes eight rows of eight 32-bit numbers.
INLINE void transpose(const __m256i rows[8], __m256i out[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        out[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

// Packs eight bytes of each of eight rows: two quads from the low halves, and two from the high.
INLINE void pack_nibbles(const uint8_t (*bytes)[8], __m256i flipped, int group, panel_quad *low,
                         panel_quad *high) {
    const __m256i order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    const __m256i a = _mm256_permutevar8x32_epi32(load_bytes(bytes), order);
    const __m256i b = _mm256_permutevar8x32_epi32(load_bytes(bytes + ROW_GROUP / 2), order);
    const __m256i even = _mm256_xor_si256(_mm256_permute2x128_si256(a, b, 0x20), flipped);
    const __m256i odd = _mm256_xor_si256(_mm256_permute2x128_si256(a, b, 0x31), flipped);
    store_quad(low, group, 0, low_nibbles(even));
    store_quad(low, group, 1, low_nibbles(odd));
    store_quad(high, group, 0, high_nibbles(even));
    store_quad(high, group, 1, high_nibbles(odd));
}

static inline void pack_q4_0(const struct q4_0_group *from, int group, struct panel_block *out) {
    const __m256i flipped = _mm256_set1_epi8((char)0x88);
    _mm256_storeu_ps(out->scales[0] + group * ROW_GROUP, load_eight_halves(from->scales));
    for (int i = 0; i < 2; i++) {
        panel_quad *const low = out->numbers + 2 * i;
        pack_nibbles(from->bytes[i], flipped, group, low, low + QUADS / 2);
    }
}

static inline void pack_q4_k(const struct q4_k_group *from, int group, struct panel_block *out,
                             struct panel_superblock *super) {
    const struct q4_k_factors factors = q4_k_factors_of(from);
    _mm256_storeu_ps(super->scales[0] + group * ROW_GROUP, load_eight_halves(from->scales));
    _mm256_storeu_ps(super->scales[1] + group * ROW_GROUP, load_eight_halves(from->minima));
    for (int b = 0; b < SUPERBLOCK; b++) {
        const __m128i eight = _mm_loadl_epi64((const __m128i *)factors.scales[b]);
        const __m256i low = _mm256_cvtepu8_epi32(eight);
        const __m256i factor = HAS_VNNI ? low : _mm256_or_si256(low, _mm256_slli_epi32(low, 16));
        _mm256_storeu_si256((__m256i *)(out[b].factors[0] + group * ROW_GROUP), factor);
        _mm256_storeu_ps(out[b].scales[1] + group * ROW_GROUP, floats_of_eight_bytes(factors.minima[b]));
    }
    for (int b = 0; b < SUPERBLOCK; b += 2) {
        for (int i = 0; i < 4; i++) {
            pack_nibbles(from->bytes[b / 2][i], _mm256_setzero_si256(), group, out[b].numbers + 2 * i,
                         out[b + 1].numbers + 2 * i);
        }
    }
}

// Packs numbers of a block of eight rows.
INLINE void pack_numbers(const bool is_signed, const __m256i rows[ROW_GROUP], int group, struct panel_block *out) {
    __m256i transposed[QUADS];
    transpose(rows, transposed);
    for (int q = 0; q < QUADS; q++) {
        const __m256i x = transposed[q];
        if (!is_signed) {
            store_quad(out->numbers, group, q, x);
        } else if (HAS_VNNI) {
            store_quad(out->numbers, group, q, _mm256_xor_si256(x, _mm256_set1_epi8((char)0x80)));
        } else {
            store_quad(out->numbers, group, q, _mm256_abs_epi8(x));
            store_quad(out->signs, group, q, x);
        }
    }
}

// Packs the factors of eight rows: as 32-bit numbers, or as add_scaled_dot wants them.
INLINE void pack_row_factors(const enum ggml_type type, const __m128i factors[ROW_GROUP], int group,
                             struct panel_block *out) {
    const int n_scales = row_types[type].n_scales, per_register = SUPERBLOCK / (2 / n_scales);
    const bool in_16_bits = row_types[type].is_small;
    for (int i = 0; i < 2; i++) {
        __m256i wide[ROW_GROUP], transposed[8];
        for (int r = 0; r < ROW_GROUP; r++) {
            wide[r] = _mm256_cvtepi8_epi32(i ? _mm_srli_si128(factors[r], 8) : factors[r]);
        }
        transpose(wide, transposed);
        for (int k = 0; k < per_register; k++) {
            const __m256i x = transposed[k * (2 / n_scales)];
            const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
            const __m256i both = HAS_VNNI ? low : _mm256_or_si256(low, _mm256_slli_epi32(x, 16));
            const int block = (i * per_register + k) / n_scales;
            int32_t *const to = out[block].factors[k % n_scales] + group * ROW_GROUP;
            _mm256_storeu_si256((__m256i *)to, in_16_bits ? both : x);
        }
    }
}

// Packs superblock s of eight rows.
INLINE void pack_superblock_rows(const enum ggml_type type, const void *const rows[ROW_GROUP], int64_t s, int group,
                                 struct panel_block *out, struct panel_superblock *super) {
    const struct row_type t = row_types[type];
    __m256i numbers[SUPERBLOCK][ROW_GROUP], minima[ROW_GROUP], transposed[SUPERBLOCK];
    __m128i factors[ROW_GROUP];
    uint16_t scales[ROW_GROUP], minimum_scales[ROW_GROUP] = {0};
    for (int r = 0; r < ROW_GROUP; r++) {
        const void *const row = (const char *)rows[r] + (size_t)s * t.bytes;
#pragma GCC unroll 8
        for (int b = 0; b < SUPERBLOCK; b++) {
            numbers[b][r] = numbers_of_block(type, row, b);
        }
        const struct row_factors f = row_factors_of(type, row);
        factors[r] = f.factors;
        minima[r] = _mm256_cvtepi8_epi16(f.minima);
        scales[r] = row_scale_of(type, row);
        if (t.has_minima) {
            minimum_scales[r] = row_minimum_scale_of(type, row);
        }
    }
    _mm256_storeu_ps(super->scales[0] + group * ROW_GROUP, load_eight_halves(scales));
    for (int b = 0; b < SUPERBLOCK; b++) {
        pack_numbers(t.is_signed, numbers[b], group, &out[b]);
    }
    pack_row_factors(type, factors, group, out);
    if (!t.has_minima) {
        return;
    }
    _mm256_storeu_ps(super->scales[1] + group * ROW_GROUP, load_eight_halves(minimum_scales));
    transpose(minima, transposed);
    for (int b = 0; b < SUPERBLOCK; b++) {
        _mm256_storeu_si256((__m256i *)(super->minima[b] + group * ROW_GROUP), transposed[b]);
    }
}

// The same, of a type that is known only now.
static inline void pack_rows(enum ggml_type type, const void *const rows[ROW_GROUP], int64_t s, int group,
                             struct panel_block *out, struct panel_superblock *super) {
#define CASE(type) \
    case type: pack_superblock_rows(type, rows, s, group, out, super); break
    switch (type) {
        EACH_ROW_TYPE(CASE);
        default: break;
    }
#undef CASE
}

// Packs block b of eight rows.
INLINE void pack_block_rows(const enum ggml_type type, const void *const rows[ROW_GROUP], int64_t b, int group,
                            struct panel_block *out) {
    __m256i numbers[ROW_GROUP];
    eight_halves scales;
#pragma GCC unroll 8
    for (int r = 0; r < ROW_GROUP; r++) {
        const void *const block = (const char *)rows[r] + (size_t)b * block_types[type].bytes;
        numbers[r] = block_numbers_of(type, block);
        scales[r] = block_scale_of(type, block);
    }
    _mm256_storeu_ps(out->scales[0] + group * ROW_GROUP, eight_block_scales(type, scales));
    pack_numbers(block_types[type].is_signed, numbers, group, out);
}

// The same, of a type that is known only now.
static inline void pack_blocks(enum ggml_type type, const void *const rows[ROW_GROUP], int64_t b, int group,
                               struct panel_block *out) {
#define CASE(type) \
    case type: pack_block_rows(type, rows, b, group, out); break
    switch (type) {
        EACH_BLOCK_TYPE(CASE);
        default: break;
    }
#undef CASE
}

// Packs the blocks from `first` up to `stop` of the rows from `row` on; the last ones stand for those that
// lack. out: [stop - first]. superblocks: [(stop - first) / SUPERBLOCK], if there are any.
static inline void pack_panel(const struct quant_matrix *w, int64_t row, int64_t first, int64_t stop,
                              struct panel_block *out, struct panel_superblock *superblocks) {
    for (int group = 0; group < PANEL_GROUPS; group++) {
        const int64_t own = row + group * ROW_GROUP < w->n_rows ? row + group * ROW_GROUP : row;
        const void *rows[ROW_GROUP];
        for (int r = 0; r < ROW_GROUP; r++) {
            const int64_t i = own + r < w->n_rows ? own + r : w->n_rows - 1;
            rows[r] = w->data + (size_t)i * w->row_bytes;
        }
        for (int64_t b = first; b < stop; b += has_superblocks(w->type) ? SUPERBLOCK : 1) {
            const int64_t s = b / SUPERBLOCK, i = b - first;
            struct panel_block *const to = out + i;
            struct panel_superblock *const of = superblocks + i / SUPERBLOCK;
            switch (w->type) {
                case GGML_TYPE_Q4_0: pack_q4_0((const struct q4_0_group *)rows[0] + b, group, to); break;
                case GGML_TYPE_Q4_K: pack_q4_k((const struct q4_k_group *)rows[0] + s, group, to, of); break;
                default:
                    if (is_row_type(w->type)) {
                        pack_rows(w->type, rows, s, group, to, of);
                    } else {
                        pack_blocks(w->type, rows, b, group, to);
                    }
            }
        }
    }
}

#endif
