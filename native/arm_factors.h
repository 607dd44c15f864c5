// Scales, factors and minima of four rows on ARM, wherever they lie.
//
// Knows: their packing. Refuses to know: the numbers that they scale.

#pragma once

#include "arm_types.h"

#if HAS_ARM_PRODUCTS

// ---------------------------------------------------------------- scales

// Returns a field of two bytes of each of four rows.
INLINE uint16x4_t two_bytes_of_rows(const enum ggml_type type, const enum row_layout layout,
                                    const struct arm_rows *w, int64_t block, const int field) {
    if (layout != ROW_BY_ROW) {
        return vreinterpret_u16_u8(vld1_u8(field_of_group(type, w, block, field) + 8 * w->tile));
    }
    uint64_t all = 0;
    for (int r = 0; r < TILE_ROWS; r++) {
        uint16_t one;
        memcpy(&one, field_of_row(type, w, block, field, r), sizeof one);
        all |= (uint64_t)one << (16 * r);
    }
    return vcreate_u16(all);
}

// Returns the scales of MXFP4, powers of two, halved: its numbers are twice what they mean.
INLINE float32x4_t mxfp4_scales(const enum row_layout layout, const struct arm_rows *w, int64_t block) {
    uint32_t all = 0;
    if (layout != ROW_BY_ROW) {
        memcpy(&all, field_of_group(GGML_TYPE_MXFP4, w, block, 0), sizeof all);
    }
    for (int r = 0; layout == ROW_BY_ROW && r < TILE_ROWS; r++) {
        all |= (uint32_t)*field_of_row(GGML_TYPE_MXFP4, w, block, 0, r) << (8 * r);
    }
    const uint32x4_t exponents = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(all))));
    const uint32x4_t bits = vshlq_n_u32(vqsubq_u32(exponents, vdupq_n_u32(1)), 23);
    const uint32x4_t denormal = vshlq_u32(vdupq_n_u32(0x200000), vreinterpretq_s32_u32(exponents));
    return vreinterpretq_f32_u32(vbslq_u32(vcleq_u32(exponents, vdupq_n_u32(1)), denormal, bits));
}

// Returns the scales of a block, or of a superblock, of four rows.
INLINE float32x4_t arm_scales(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                              int64_t block) {
    if (type == GGML_TYPE_MXFP4) {
        return mxfp4_scales(layout, w, block);
    }
    return vcvt_f32_f16(
        vreinterpret_f16_u16(two_bytes_of_rows(type, layout, w, block, arm_types[type].scale)));
}

INLINE float32x4_t arm_minimum_scales(const enum ggml_type type, const enum row_layout layout,
                                      const struct arm_rows *w, int64_t s) {
    return vcvt_f32_f16(
        vreinterpret_f16_u16(two_bytes_of_rows(type, layout, w, s, arm_types[type].minimum_scale)));
}

// ---------------------------------------------------------------- factors

// Of four rows' superblocks, four factors in each word of a register: [row][factor]; [factor][row] where rows lie side
// by side. minima: [row][minimum] always.
struct arm_factors {
    uint8x16_t words[4], minima[4];
};

// Returns the words, one of each row, that registers have: out[i] has word i of all.
INLINE void transpose_words(const uint8x16_t rows[TILE_ROWS], uint8x16_t out[4]) {
    uint32x4_t x[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++) {
        x[r] = vreinterpretq_u32_u8(rows[r]);
    }
    const uint64x2_t a = vreinterpretq_u64_u32(vzip1q_u32(x[0], x[1])), b = vreinterpretq_u64_u32(vzip1q_u32(x[2], x[3]));
    const uint64x2_t c = vreinterpretq_u64_u32(vzip2q_u32(x[0], x[1])), d = vreinterpretq_u64_u32(vzip2q_u32(x[2], x[3]));
    out[0] = vreinterpretq_u8_u64(vzip1q_u64(a, b));
    out[1] = vreinterpretq_u8_u64(vzip2q_u64(a, b));
    out[2] = vreinterpretq_u8_u64(vzip1q_u64(c, d));
    out[3] = vreinterpretq_u8_u64(vzip2q_u64(c, d));
}

// Loads sixteen bytes of each row from a field on; what follows it in the superblock may be among them.
INLINE void field_words(const enum ggml_type type, const struct arm_rows *w, int64_t s, const int field,
                        uint8x16_t out[4]) {
    uint8x16_t rows[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++) {
        rows[r] = vld1q_u8(field_of_row(type, w, s, field, r));
    }
    transpose_words(rows, out);
}

INLINE uint8x16_t low_four(uint8x16_t x) { return vandq_u8(x, vdupq_n_u8(0x0f)); }

INLINE uint8x16_t low_six(uint8x16_t x) { return vandq_u8(x, vdupq_n_u8(0x3f)); }

// Returns the lower four bits of x, and the upper two of y above them.
INLINE uint8x16_t six_bits_of(uint8x16_t x, uint8x16_t y) { return vsliq_n_u8(low_four(x), vshrq_n_u8(y, 6), 4); }

// Sixteen bytes as four words, and back, their bytes transposed.
INLINE uint8x16_t transposed_bytes(uint8x16_t x) {
    const uint8x16_t order = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    return vqtbl1q_u8(x, order);
}

// Six-bit factors and minima of Q4_K and Q5_K. Three words hold them: of a row, or of a block of eight rows. The
// first (the second for minima) has four in its lower bits; the others are in the third, and their upper bits in the
// bits that are left.
INLINE void six_bit_factors(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                            int64_t s, struct arm_factors *out) {
    const int field = arm_types[type].factors;
    if (layout == ROW_BY_ROW) {
        uint8x16_t x[4];
        field_words(type, w, s, field, x);
        out->words[0] = low_six(x[0]);
        out->minima[0] = low_six(x[1]);
        out->words[1] = six_bits_of(x[2], x[0]);
        out->minima[1] = six_bits_of(vshrq_n_u8(x[2], 4), x[1]);
        return;
    }
    for (int i = 0; i < 2; i++) {  // four blocks each
        const uint8_t *const from = field_of_group(type, w, s, field) + 48 * i;
        const uint32x4x3_t words = vld3q_u32((const uint32_t *)from);
        const uint8x16_t factors = vreinterpretq_u8_u32(words.val[0]), minima = vreinterpretq_u8_u32(words.val[1]);
        const uint8x16_t others = vreinterpretq_u8_u32(words.val[2]);
        out->words[i] = w->tile ? six_bits_of(others, factors) : low_six(factors);
        out->minima[i] =
            transposed_bytes(w->tile ? six_bits_of(vshrq_n_u8(others, 4), minima) : low_six(minima));
    }
}

INLINE void q2_k_factors_of(const struct arm_rows *w, int64_t s, struct arm_factors *out) {
    uint8x16_t x[4];
    field_words(GGML_TYPE_Q2_K, w, s, arm_types[GGML_TYPE_Q2_K].factors, x);
    for (int i = 0; i < 4; i++) {
        out->words[i] = low_four(x[i]);
        out->minima[i] = vshrq_n_u8(x[i], 4);
    }
}

INLINE uint8x16_t less_32(uint8x16_t x) { return vsubq_u8(x, vdupq_n_u8(32)); }

// Six bits, less 32: the third word has two bits of each of four factors in each byte.
INLINE void q3_k_factors_of(const struct arm_rows *w, int64_t s, struct arm_factors *out) {
    uint8x16_t rows[TILE_ROWS], x[4];
    for (int r = 0; r < TILE_ROWS; r++) {  // from four bytes before: behind them the last row may end
        rows[r] = vld1q_u8(field_of_row(GGML_TYPE_Q3_K, w, s, arm_types[GGML_TYPE_Q3_K].factors - 4, r));
    }
    transpose_words(rows, x);
    for (int i = 0; i < 4; i++) {
        const uint8x16_t low = i < 2 ? low_four(x[1 + i % 2]) : vshrq_n_u8(x[1 + i % 2], 4);
        const uint8x16_t two = bytes_shifted(x[3], 2 * i - 4);  // to the bits 4 and 5
        out->words[i] = less_32(vbslq_u8(vdupq_n_u8(0x30), two, low));
    }
}

INLINE void iq4_xs_factors_of(const struct arm_rows *w, int64_t s, struct arm_factors *out) {
    const struct arm_type t = arm_types[GGML_TYPE_IQ4_XS];
    const int16x8_t shifts = {4, 2, 0, -2, -4, -6, -8, -10};
    uint8x16_t rows[2];  // of two rows each
    for (int i = 0; i < 2; i++) {
        uint16x8_t two[2];
        uint32_t low[2];
        for (int k = 0; k < 2; k++) {
            uint16_t high;
            memcpy(&high, field_of_row(GGML_TYPE_IQ4_XS, w, s, t.high, 2 * i + k), sizeof high);
            memcpy(&low[k], field_of_row(GGML_TYPE_IQ4_XS, w, s, t.factors, 2 * i + k), sizeof low[k]);
            two[k] = vshlq_u16(vdupq_n_u16(high), shifts);
        }
        const uint8x8_t halves = vcreate_u8((uint64_t)low[1] << 32 | low[0]);
        const uint8x8_t even = vand_u8(halves, vdup_n_u8(0x0f)), odd = vshr_n_u8(halves, 4);
        const uint8x16_t four = vcombine_u8(vzip1_u8(even, odd), vzip2_u8(even, odd));
        const uint8x16_t upper = vuzp1q_u8(vreinterpretq_u8_u16(two[0]), vreinterpretq_u8_u16(two[1]));
        rows[i] = less_32(vbslq_u8(vdupq_n_u8(0x30), upper, four));
    }
    const uint32x4_t a = vreinterpretq_u32_u8(rows[0]), b = vreinterpretq_u32_u8(rows[1]);
    out->words[0] = vreinterpretq_u8_u32(vuzp1q_u32(a, b));
    out->words[1] = vreinterpretq_u8_u32(vuzp2q_u32(a, b));
}

// Q6_K's, where rows lie side by side, are read where they are used.
INLINE void factors_of_rows(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                            int64_t s, struct arm_factors *out) {
    if (type == GGML_TYPE_Q2_K) {
        q2_k_factors_of(w, s, out);
    } else if (type == GGML_TYPE_Q3_K) {
        q3_k_factors_of(w, s, out);
    } else if (type == GGML_TYPE_IQ4_XS) {
        iq4_xs_factors_of(w, s, out);
    } else if (type != GGML_TYPE_Q6_K) {
        six_bit_factors(type, layout, w, s, out);
    } else if (layout == ROW_BY_ROW) {
        field_words(type, w, s, arm_types[type].factors, out->words);
    }
}

// Returns factor k of four rows. Without signs, each byte goes to the lowest of a lane; with signs to the highest.
INLINE int32x4_t factor_of_rows(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                                int64_t s, const struct arm_factors *factors, const int k) {
    const bool has_signs = type == GGML_TYPE_Q3_K || type == GGML_TYPE_Q6_K || type == GGML_TYPE_IQ4_XS;
    if (type == GGML_TYPE_Q6_K && layout != ROW_BY_ROW) {
        const uint8_t *const from = field_of_group(type, w, s, arm_types[type].factors) + 8 * k;
        const int16x8_t eight = vmovl_s8(vreinterpret_s8_u8(vld1_u8(from)));
        return w->tile ? vmovl_high_s16(eight) : vmovl_s16(vget_low_s16(eight));
    }
    const uint32_t first = (uint32_t)(layout == ROW_BY_ROW ? k % 4 : 4 * (k % 4)), step = layout == ROW_BY_ROW ? 4 : 1;
    const uint32_t none = has_signs ? 0x00ffffff : 0xffffff00;
    const int at = has_signs ? 24 : 0;
    const uint32x4_t order = {first << at | none, (first + step) << at | none, (first + 2 * step) << at | none,
                              (first + 3 * step) << at | none};
    const int32x4_t x = vreinterpretq_s32_u8(vqtbl1q_u8(factors->words[k / 4], vreinterpretq_u8_u32(order)));
    return has_signs ? vshrq_n_s32(x, 24) : x;
}

#endif
