// Packs interleaved rows into panels.
//
// Knows: the layouts of the types, and of a panel. Refuses to know: what a panel is multiplied with.

#pragma once

#include "panel_layout.h"

#if HAS_PRODUCTS

// Takes eight bytes of each of eight rows apart: out[0] has the first four of each, out[1] the last.
INLINE void split_eights(const uint8_t (*bytes)[8], __m256i out[2]) {
    const __m256i order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    const __m256i a = _mm256_permutevar8x32_epi32(load_bytes(bytes), order);
    const __m256i b = _mm256_permutevar8x32_epi32(load_bytes(bytes + ROW_GROUP / 2), order);
    out[0] = _mm256_permute2x128_si256(a, b, 0x20);
    out[1] = _mm256_permute2x128_si256(a, b, 0x31);
}

// Packs eight bytes of each of eight rows: two quads from the low halves, and two from the high.
INLINE void pack_nibbles(const uint8_t (*bytes)[8], int group, panel_quad *low, panel_quad *high) {
    __m256i four[2];
    split_eights(bytes, four);
    for (int q = 0; q < 2; q++) {
        store_quad(low, group, q, low_nibbles(four[q]));
        store_quad(high, group, q, high_nibbles(four[q]));
    }
}

// Returns the numbers of a nibble type that the lower halves of bytes stand for, as store_numbers wants them.
INLINE __m256i numbers_of_nibbles(const enum ggml_type type, __m256i x) {
    return type == GGML_TYPE_Q4_0 ? low_nibbles(_mm256_xor_si256(x, _mm256_set1_epi8(8)))
                                  : looked_up(nibble_values(type), low_nibbles(x));
}

// Packs block `from` of eight rows.
INLINE void pack_nibble_group(const enum ggml_type type, const void *from, int group, struct panel_block *out) {
    const bool has_signs = are_nibbles_signed(type);
    _mm256_storeu_ps(out->scales[0] + group * ROW_GROUP, nibble_scales_of(type, from));
    for (int i = 0; i < 2; i++) {
        __m256i four[2];
        split_eights(nibble_bytes_of(type, from)[i], four);
        for (int q = 0; q < 2; q++) {
            const __m256i low = numbers_of_nibbles(type, four[q]);
            const __m256i high = numbers_of_nibbles(type, _mm256_srli_epi16(four[q], 4));
            store_numbers(has_signs, low, group, 2 * i + q, out);
            store_numbers(has_signs, high, group, 2 * i + q + QUADS / 2, out);
        }
    }
}

// Packs superblock `from` of eight rows.
static inline void pack_q2_k(const struct q2_k_group *from, int group, struct panel_block *out,
                             struct panel_superblock *super) {
    _mm256_storeu_ps(super->scales[0] + group * ROW_GROUP, load_eight_halves(from->scales));
    _mm256_storeu_ps(super->scales[1] + group * ROW_GROUP, load_eight_halves(from->minimum_scales));
    for (int b = 0; b < SUPERBLOCK; b++) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)from->factors[b]);
        const __m256i minima = _mm256_srli_epi16(_mm256_cvtepu8_epi16(bytes), 4);
        _mm256_storeu_si256((__m256i *)(super->minima[b] + group * ROW_GROUP), minima);
        const __m256i both = _mm256_cvtepu16_epi32(_mm_and_si128(bytes, _mm_set1_epi8(0x0f)));
        for (int half = 0; half < 2; half++) {
            const __m256i x = _mm256_and_si256(shifted_right(both, 8 * half), _mm256_set1_epi32(0x0f));
            const __m256i factor = HAS_VNNI ? x : _mm256_or_si256(x, _mm256_slli_epi32(x, 16));
            _mm256_storeu_si256((__m256i *)(out[b].factors[half] + group * ROW_GROUP), factor);
        }
    }
    for (int i = 0; i < 8; i++) {
        const int h = i / 4, k = i % 4;
        __m256i four[2];
        split_eights(from->bytes[h][k], four);
        for (int part = 0; part < 4; part++) {
            for (int q = 0; q < 2; q++) {
                const __m256i x = _mm256_and_si256(shifted_right(four[q], 2 * part), _mm256_set1_epi8(3));
                store_quad(out[4 * h + part].numbers, group, 2 * k + q, x);
            }
        }
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
            pack_nibbles(from->bytes[b / 2][i], group, out[b].numbers + 2 * i, out[b + 1].numbers + 2 * i);
        }
    }
}

// Packs block b of eight interleaved rows; of superblocks that whose first block it is.
static inline void pack_group(enum ggml_type type, const void *rows, int64_t b, int group, struct panel_block *out,
                              struct panel_superblock *super) {
#define CASE(type)                                                                                              \
    case type:                                                                                                  \
        pack_nibble_group(type, (const char *)rows + (size_t)b * nibble_group_bytes(type), group, out); \
        break
    switch (type) {
        EACH_NIBBLE_TYPE(CASE);
        case GGML_TYPE_Q4_K: pack_q4_k((const struct q4_k_group *)rows + b / SUPERBLOCK, group, out, super); break;
        case GGML_TYPE_Q2_K: pack_q2_k((const struct q2_k_group *)rows + b / SUPERBLOCK, group, out, super); break;
        default: break;
    }
#undef CASE
}

#endif
