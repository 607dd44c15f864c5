// What panels know of a type on ARM, besides where its fields lie (arm_layout.h): how it is packed, and how sixteen
// bytes of a field become numbers.
//
// A weight is scale * factor * number - minimum scale * minimum; blocks without superblocks have a scale alone.
// Numbers have their signs: zero points are taken off.

#pragma once

#include <string.h>

#include "arm_types.h"

#if HAS_ARM_PRODUCTS

struct arm_panel_type {
    int n_factors;    // of a block; 0: numbers are packed times their factors, which fit 8 bits
    int n_minima;     // of a block
    bool is_negated;  // numbers are packed with the other sign
    int sums_of;      // products that fit 16 bits, in each of eight lanes, with plain NEON: 4 or 2
};

static const struct arm_panel_type arm_panel_types[] = {
    [GGML_TYPE_Q4_0] = {.sums_of = 4},
    [GGML_TYPE_Q8_0] = {.sums_of = 2},
    [GGML_TYPE_Q5_0] = {.sums_of = 4},
    [GGML_TYPE_IQ4_NL] = {.sums_of = 2},
    [GGML_TYPE_MXFP4] = {.sums_of = 4},
    [GGML_TYPE_Q2_K] = {.n_minima = 2, .sums_of = 4},
    // Numbers are -4 to 3, factors -32 to 31: -128 to 124, once they are negated.
    [GGML_TYPE_Q3_K] = {.is_negated = true, .sums_of = 2},
    [GGML_TYPE_Q4_K] = {.n_factors = 1, .n_minima = 1, .sums_of = 4},
    [GGML_TYPE_Q5_K] = {.n_factors = 1, .n_minima = 1, .sums_of = 4},
    [GGML_TYPE_Q6_K] = {.n_factors = 2, .sums_of = 4},
    [GGML_TYPE_IQ4_XS] = {.n_factors = 1, .sums_of = 2},
};

// Has two numbers in each byte, numbers j and 16 + j of a block.
INLINE bool has_halves_in_bytes(const enum ggml_type type) {
    return type == GGML_TYPE_Q4_0 || type == GGML_TYPE_Q5_0 || type == GGML_TYPE_IQ4_NL ||
           type == GGML_TYPE_MXFP4 || type == GGML_TYPE_IQ4_XS;
}

// Returns where in the field of lower bits sixteen numbers of block b lie, the first ones or the last.
INLINE int low_at(const enum ggml_type type, int b, int half) {
    if (type == GGML_TYPE_IQ4_XS) {
        return 16 * b;
    }
    const int first = type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K   ? b / 2 * 32
                      : type == GGML_TYPE_Q2_K || type == GGML_TYPE_Q3_K ? b / 4 * 32
                      : type == GGML_TYPE_Q6_K                           ? b / 4 * 64 + b % 2 * 32
                                                                         : 0;
    return has_halves_in_bytes(type) ? first : first + 16 * half;
}

INLINE int high_at(const enum ggml_type type, int b, int half) {
    return (type == GGML_TYPE_Q6_K ? b / 4 * 32 : 0) + 16 * half;
}

INLINE bool has_high_bits(const enum ggml_type type) {
    return type == GGML_TYPE_Q3_K || type == GGML_TYPE_Q5_K || type == GGML_TYPE_Q6_K;
}

// ---------------------------------------------------------------- numbers

// Returns `bits` bits of each byte, from bit `first` on.
INLINE uint8x16_t some_bits(uint8x16_t x, int first, int bits) {
    return vandq_u8(vshlq_u8(x, vdupq_n_s8((int8_t)-first)), vdupq_n_u8((uint8_t)((1 << bits) - 1)));
}

// Returns the bits of `low`, with those of `high` above, less a zero point.
INLINE int8x16_t joined_bits(uint8x16_t low, uint8x16_t high, const int bits, int8_t zero_point) {
    const uint8x16_t x = vorrq_u8(low, vshlq_n_u8(high, bits));
    return vsubq_s8(vreinterpretq_s8_u8(x), vdupq_n_s8(zero_point));
}

// Q4_0's numbers are packed sixteen times as large: that takes one instruction. With plain NEON their products would
// not fit 16 bits.
enum { Q4_0_TIMES = HAS_ARM_DOT ? 16 : 1 };

INLINE int8x16_t q4_0_half(uint8x16_t bytes, int half) {
    const int8x16_t x = vreinterpretq_s8_u8(half ? vandq_u8(bytes, vdupq_n_u8(0xf0)) : vshlq_n_u8(bytes, 4));
    return Q4_0_TIMES == 1 ? vshrq_n_s8(x, 4) : x;
}

// Returns sixteen numbers of block b, the first ones or the last. low, high: from low_at and high_at. high of Q5_0: a
// one where the upper bit is set. low of Q4_0: with the upper bits of both halves flipped, as it is repacked; then
// half a byte is a number with a sign.
INLINE int8x16_t sixteen_numbers(const enum ggml_type type, uint8x16_t low, uint8x16_t high, int b, int half) {
    const uint8x16_t zero = vdupq_n_u8(0);
    switch (type) {
        case GGML_TYPE_Q4_0: return q4_0_half(low, half);
        case GGML_TYPE_Q5_0: return joined_bits(some_bits(low, 4 * half, 4), high, 4, 16);
        case GGML_TYPE_IQ4_NL:
        case GGML_TYPE_IQ4_XS: return iq4_values_of(vreinterpretq_s8_u8(some_bits(low, 4 * half, 4)));
        case GGML_TYPE_MXFP4: return mxfp4_values_of(vreinterpretq_s8_u8(some_bits(low, 4 * half, 4)));
        case GGML_TYPE_Q4_K: return joined_bits(some_bits(low, 4 * (b % 2), 4), zero, 4, 0);
        case GGML_TYPE_Q5_K: return joined_bits(some_bits(low, 4 * (b % 2), 4), some_bits(high, b, 1), 4, 0);
        case GGML_TYPE_Q6_K:
            return joined_bits(some_bits(low, 4 * (b % 4 / 2), 4), some_bits(high, 2 * (b % 4), 2), 4, 32);
        case GGML_TYPE_Q2_K: return joined_bits(some_bits(low, 2 * (b % 4), 2), zero, 2, 0);
        case GGML_TYPE_Q3_K: return joined_bits(some_bits(low, 2 * (b % 4), 2), some_bits(high, b, 1), 2, 4);
        default: return vreinterpretq_s8_u8(low);
    }
}

// Returns ones where bits are set, of sixteen.
INLINE uint8x16_t ones_of(const uint8_t bits[2]) {
    static const uint8_t own[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x8_t each = vld1_u8(own);
    const uint8x16_t both = vcombine_u8(vdup_n_u8(bits[0]), vdup_n_u8(bits[1]));
    return vandq_u8(vtstq_u8(both, vcombine_u8(each, each)), vdupq_n_u8(1));
}

// ---------------------------------------------------------------- scales and factors

INLINE float half_to_float(const void *from) {
    __fp16 x;
    memcpy(&x, from, sizeof x);
    return (float)x;
}

// Returns a scale of MXFP4: half of a power of two, since numbers are doubled.
INLINE float mxfp4_scale(uint8_t exponent) {
    const uint32_t bits = exponent > 1 ? (uint32_t)(exponent - 1) << 23 : 0x200000u << exponent;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

// Factors and minima of six bits: of a row's eight blocks, or of eight rows' block.
struct six_bit_factors {
    uint8_t factors[8], minima[8];
};

INLINE struct six_bit_factors six_bit_factors_of(const uint8_t packed[12]) {
    uint32_t x[3];
    memcpy(x, packed, sizeof x);
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x30303030;
    const uint32_t factors[2] = {x[0] & six, (x[2] & four) | (x[0] >> 2 & two)};
    const uint32_t minima[2] = {x[1] & six, (x[2] >> 4 & four) | (x[1] >> 2 & two)};
    struct six_bit_factors out;
    memcpy(out.factors, factors, sizeof factors);
    memcpy(out.minima, minima, sizeof minima);
    return out;
}

// Factors and minima of a row's superblock: as many as the type has of them.
struct row_factors {
    int8_t factors[2 * SUPERBLOCK], minima[2 * SUPERBLOCK];
};

INLINE void read_factors(const enum ggml_type type, const uint8_t *row, struct row_factors *out) {
    const struct arm_type t = arm_types[type];
    const uint8_t *const from = row + t.factors;
    if (type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K) {
        const struct six_bit_factors six = six_bit_factors_of(from);
        memcpy(out->factors, six.factors, sizeof six.factors);
        memcpy(out->minima, six.minima, sizeof six.minima);
    } else if (type == GGML_TYPE_Q6_K) {
        memcpy(out->factors, from, sizeof out->factors);
    } else if (type == GGML_TYPE_Q2_K) {
        const uint8x16_t both = vld1q_u8(from);
        vst1q_s8(out->factors, vreinterpretq_s8_u8(some_bits(both, 0, 4)));
        vst1q_s8(out->minima, vreinterpretq_s8_u8(some_bits(both, 4, 4)));
    } else if (type == GGML_TYPE_Q3_K) {
        for (int i = 0; i < 2 * SUPERBLOCK; i++) {
            const int low = from[i % 8] >> (i < 8 ? 0 : 4) & 15, high = from[8 + i % 4] >> i / 4 * 2 & 3;
            out->factors[i] = (int8_t)((low | high << 4) - 32);
        }
    } else if (type == GGML_TYPE_IQ4_XS) {
        for (int i = 0; i < SUPERBLOCK; i++) {
            const int low = from[i / 2] >> i % 2 * 4 & 15, high = row[t.high + i / 4] >> i % 4 * 2 & 3;
            out->factors[i] = (int8_t)((low | high << 4) - 32);
        }
    }
}

#endif
