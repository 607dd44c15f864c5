// Types of weights on ARM: a page for each says how its numbers are unpacked from the bytes of four rows, wherever
// those lie, and serves the products with few vectors and with many. Factors of superblocks: see arm_factors.h.
//
// A weight of a block is scale * (number - zero point). Of a superblock it is scale * factor * (number - zero point),
// or scale * factor * number - minimum scale * minimum.

#pragma once

#include "arm_layout.h"

#if HAS_ARM_PRODUCTS

// Tells whether a matrix is Q4_0 as it is repacked: with numbers that have signs, and no zero point.
INLINE bool is_flipped(const enum ggml_type type, const enum row_layout layout) {
    return type == GGML_TYPE_Q4_0 && layout != ROW_BY_ROW;
}

// Tells whether each sixteen numbers of a superblock have a factor, not each block.
INLINE bool has_two_factors(const enum ggml_type type) {
    return type == GGML_TYPE_Q2_K || type == GGML_TYPE_Q3_K || type == GGML_TYPE_Q6_K;
}

INLINE bool has_minima(const enum ggml_type type) {
    return type == GGML_TYPE_Q2_K || type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K;
}

// Returns the largest number, its sign left aside.
INLINE int arm_largest(const enum ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q2_K: return 3;
        case GGML_TYPE_Q3_K: return 7;
        case GGML_TYPE_MXFP4: return 12;
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_Q4_K: return 15;
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_Q5_K: return 31;
        case GGML_TYPE_Q6_K: return 63;
        default: return 128;
    }
}

INLINE int8x16_t iq4_values_of(int8x16_t places) {
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return vqtbl1q_s8(vld1q_s8(values), vreinterpretq_u8_s8(places));
}

INLINE int8x16_t mxfp4_values_of(int8x16_t places) {
    static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    return vqtbl1q_s8(vld1q_s8(values), vreinterpretq_u8_s8(places));
}

// Returns x with the bits of `mask` taken from y.
INLINE int8x16_t with_bits(int8x16_t x, uint8x16_t y, const uint8_t mask) {
    return vreinterpretq_s8_u8(vbslq_u8(vdupq_n_u8(mask), y, vreinterpretq_u8_s8(x)));
}

// Shifts to the right by 0 to 7, or to the left if it is negative.
INLINE uint8x16_t bytes_shifted(uint8x16_t x, const int right) {
    switch (right) {
        case -4: return vshlq_n_u8(x, 4);
        case -3: return vshlq_n_u8(x, 3);
        case -2: return vshlq_n_u8(x, 2);
        case -1: return vshlq_n_u8(x, 1);
        case 1: return vshrq_n_u8(x, 1);
        case 2: return vshrq_n_u8(x, 2);
        case 3: return vshrq_n_u8(x, 3);
        case 4: return vshrq_n_u8(x, 4);
        case 5: return vshrq_n_u8(x, 5);
        case 6: return vshrq_n_u8(x, 6);
        default: return x;
    }
}

// ---------------------------------------------------------------- blocks

// Returns bytes whose fifth bit is set where bits `16 * half` and on of a row's four bytes are.
INLINE uint8x16_t fifth_bits(const uint8_t *bits, const int half) {
    uint16_t x;
    memcpy(&x, bits + 2 * half, sizeof x);
    const uint8x16_t own = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint8x16_t order = vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(0), vcreate_u64(0x0101010101010101)));
    return vtstq_u8(vqtbl1q_u8(vreinterpretq_u8_u16(vdupq_n_u16(x)), order), own);
}

// Unpacks the numbers of a block of four rows: out[half][register], see sixteen_bytes.
INLINE void unpack_block(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                         int64_t block, int8x16_t out[2][TILE_ROWS]) {
    const struct arm_type t = arm_types[type];
#pragma GCC unroll 4
    for (int i = 0; i < TILE_ROWS; i++) {
        const uint8x16_t bytes = sixteen_bytes(type, layout, w, block, t.numbers, 0, i);
        if (type == GGML_TYPE_Q8_0) {
            out[0][i] = vreinterpretq_s8_u8(bytes);
            out[1][i] = vreinterpretq_s8_u8(sixteen_bytes(type, layout, w, block, t.numbers, 16, i));
            continue;
        }
        if (is_flipped(type, layout)) {  // times 16
            out[0][i] = vreinterpretq_s8_u8(vshlq_n_u8(bytes, 4));
            out[1][i] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0xf0)));
            continue;
        }
        out[0][i] = low_nibbles_of(bytes);
        out[1][i] = high_nibbles_of(bytes);
        for (int half = 0; half < 2; half++) {
            const int8x16_t x = out[half][i];
            out[half][i] = type == GGML_TYPE_IQ4_NL  ? iq4_values_of(x)
                           : type == GGML_TYPE_MXFP4 ? mxfp4_values_of(x)
                           : type == GGML_TYPE_Q5_0
                               ? with_bits(x, fifth_bits(field_of_row(type, w, block, t.high, i), half), 0x10)
                               : x;
        }
    }
}

// ---------------------------------------------------------------- superblocks

// Pair p of the four pairs of blocks of a superblock: those that are unpacked together.
INLINE int block_of_pair(const enum ggml_type type, const int p, const int i) {
    return type == GGML_TYPE_Q6_K ? 4 * (p / 2) + p % 2 + 2 * i : 2 * p + i;
}

INLINE void unpack_q6_k(uint8x16_t low, uint8x16_t high, const int p, int8x16_t *first, int8x16_t *second) {
    const uint8x16_t two = p % 2 ? vshrq_n_u8(high, 2) : high;
    *second = with_bits(high_nibbles_of(low), two, 0x30);
    *first = vreinterpretq_s8_u8(vandq_u8(vsliq_n_u8(low, two, 4), vdupq_n_u8(0x3f)));
}

// Returns numbers of block b of Q2_K, or the lower bits of Q3_K's.
INLINE int8x16_t two_bits(uint8x16_t bytes, const int b) {
    const uint8x16_t x = bytes_shifted(bytes, 2 * (b % 4));
    return vreinterpretq_s8_u8(b % 4 == 3 ? x : vandq_u8(x, vdupq_n_u8(3)));
}

// Unpacks register i of a half of a pair of blocks of superblock s.
INLINE void unpack_registers(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                             int64_t s, const int p, const int half, const int i, int8x16_t *first,
                             int8x16_t *second) {
    const struct arm_type t = arm_types[type];
    const int b = block_of_pair(type, p, 0), at = 16 * half;
#define BYTES(field, from) sixteen_bytes(type, layout, w, s, field, (from) + at, i)
    switch (type) {
        case GGML_TYPE_Q2_K:
        case GGML_TYPE_Q3_K: {
            const uint8x16_t bytes = BYTES(t.numbers, 32 * (b / 4));
            *first = two_bits(bytes, b);
            *second = two_bits(bytes, b + 1);
            if (type == GGML_TYPE_Q3_K) {
                const uint8x16_t high = BYTES(t.high, 0);
                *first = with_bits(*first, bytes_shifted(high, b - 2), 4);
                *second = with_bits(*second, bytes_shifted(high, b - 1), 4);
            }
            return;
        }
        case GGML_TYPE_Q6_K:
            unpack_q6_k(BYTES(t.numbers, 32 * p), BYTES(t.high, 32 * (p / 2)), p, first, second);
            return;
        case GGML_TYPE_IQ4_XS: {  // half of a block is in the lower halves of its bytes
            const uint8x16_t one = sixteen_bytes(type, layout, w, s, t.numbers, 16 * b, i);
            const uint8x16_t next = sixteen_bytes(type, layout, w, s, t.numbers, 16 * (b + 1), i);
            *first = iq4_values_of(half ? high_nibbles_of(one) : low_nibbles_of(one));
            *second = iq4_values_of(half ? high_nibbles_of(next) : low_nibbles_of(next));
            return;
        }
        default: {
            const uint8x16_t bytes = BYTES(t.numbers, 32 * p);
            *first = low_nibbles_of(bytes);
            *second = high_nibbles_of(bytes);
            if (type == GGML_TYPE_Q5_K) {
                const uint8x16_t high = BYTES(t.high, 0);
                *first = with_bits(*first, bytes_shifted(high, b - 4), 0x10);
                *second = with_bits(*second, bytes_shifted(high, b - 3), 0x10);
            }
        }
    }
#undef BYTES
}

// Unpacks a pair of blocks of four rows' superblock s: out[which of the pair][half][register], see sixteen_bytes.
INLINE void unpack_pair(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w, int64_t s,
                        const int p, int8x16_t out[2][2][TILE_ROWS]) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
#pragma GCC unroll 4
        for (int i = 0; i < TILE_ROWS; i++) {
            unpack_registers(type, layout, w, s, p, half, i, &out[0][half][i], &out[1][half][i]);
        }
    }
}

#endif
