// Packs rows of quantized weights into panels; of those that lie row after row it knows how.
//
// Knows: the layouts of the types, and of a panel. Refuses to know: what a panel is multiplied with.

#pragma once

#include "pack_interleaved.h"

#if HAS_PRODUCTS

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

// Packs numbers of a block of eight rows.
INLINE void pack_numbers(const bool is_signed, const __m256i rows[ROW_GROUP], int group, struct panel_block *out) {
    __m256i transposed[QUADS];
    transpose(rows, transposed);
    for (int q = 0; q < QUADS; q++) {
        store_numbers(is_signed, transposed[q], group, q, out);
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
            struct panel_block *const to = out + (b - first);
            struct panel_superblock *const of = superblocks + (b - first) / SUPERBLOCK;
            if (w->layout != ROW_BY_ROW) {
                pack_group(w->type, rows[0], b, group, to, of);
            } else if (is_row_type(w->type)) {
                pack_rows(w->type, rows, b / SUPERBLOCK, group, to, of);
            } else {
                pack_blocks(w->type, rows, b, group, to);
            }
        }
    }
}

#endif
