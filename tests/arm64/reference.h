// Products of quantized weights in scalar C, row by row: what kernels of ARM must equal to the last bit.
//
// It shares no code with them: not how numbers, factors and minima are unpacked.

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <ggml.h>

static const int8_t iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t mxfp4_table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static float half_at(const uint8_t *p) {
    __fp16 x;
    memcpy(&x, p, sizeof x);
    return (float)x;
}

static int nibble(const uint8_t *bytes, int j, int apart) {
    const uint8_t x = bytes[j / (2 * apart) * apart + j % apart];
    return j % (2 * apart) < apart ? x & 15 : x >> 4;
}

// Returns number j of a block or superblock, its zero point taken off.
static int number_of(enum ggml_type type, const uint8_t *p, int j) {
    switch (type) {
        case GGML_TYPE_Q4_0: return nibble(p + 2, j, 16) - 8;
        case GGML_TYPE_Q5_0: return (nibble(p + 6, j, 16) | (p[2 + j / 8] >> j % 8 & 1) << 4) - 16;
        case GGML_TYPE_Q8_0: return (int8_t)p[2 + j];
        case GGML_TYPE_IQ4_NL: return iq4_table[nibble(p + 2, j, 16)];
        case GGML_TYPE_MXFP4: return mxfp4_table[nibble(p + 1, j, 16)];
        case GGML_TYPE_Q2_K: return p[16 + j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2) & 3;
        case GGML_TYPE_Q3_K:
            return (p[32 + j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2) & 3) + 4 * (p[j % 32] >> j / 32 & 1) - 4;
        case GGML_TYPE_Q4_K: return nibble(p + 16, j, 32);
        case GGML_TYPE_Q5_K: return nibble(p + 48, j, 32) | (p[16 + j % 32] >> j / 32 & 1) << 4;
        case GGML_TYPE_Q6_K:
            return (nibble(p + j / 128 * 64, j % 128, 64) | (p[128 + j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3) << 4) - 32;
        default: return iq4_table[nibble(p + 8, j, 16)];  // IQ4_XS
    }
}

static int six_bits_at(const uint8_t *p, int b, bool is_minimum) {
    const int at = is_minimum ? 4 : 0;
    return b < 4 ? p[at + b] & 63 : (is_minimum ? p[4 + b] >> 4 : p[4 + b] & 15) | p[at + b - 4] >> 6 << 4;
}

// Returns the factor of the sixteen numbers i of a superblock.
static int factor_of(enum ggml_type type, const uint8_t *p, int i) {
    switch (type) {
        case GGML_TYPE_Q2_K: return p[i] & 15;
        case GGML_TYPE_Q3_K: return ((p[96 + i % 8] >> (i / 8 * 4) & 15) | (p[104 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32;
        case GGML_TYPE_Q4_K:
        case GGML_TYPE_Q5_K: return six_bits_at(p + 4, i / 2, false);
        case GGML_TYPE_Q6_K: return (int8_t)p[192 + i];
        default: return (nibble(p + 4, i / 2 % 2 + i / 4 * 2, 1) | ((p[2] | p[3] << 8) >> (i / 2 * 2) & 3) << 4) - 32;
    }
}

static int minimum_of(enum ggml_type type, const uint8_t *p, int i) {
    return type == GGML_TYPE_Q2_K ? p[i] >> 4 : six_bits_at(p + 4, i / 2, true);
}

static float scale_of(enum ggml_type type, const uint8_t *p) {
    switch (type) {
        case GGML_TYPE_MXFP4: return ldexpf(1, p[0] - 128);
        case GGML_TYPE_Q2_K: return half_at(p + 80);
        case GGML_TYPE_Q3_K: return half_at(p + 108);
        case GGML_TYPE_Q6_K: return half_at(p + 208);
        default: return half_at(p);
    }
}

// Adds the products of a block of 32 numbers, or of a superblock of 256, with a vector's numbers.
static float added(float sum, enum ggml_type type, bool is_super, const uint8_t *p, const int8_t *x, float scale) {
    int32_t whole = 0, minima = 0;
    for (int j = 0; j < (is_super ? 256 : 32); j++) {
        whole += number_of(type, p, j) * x[j] * (is_super ? factor_of(type, p, j / 16) : 1);
        minima += is_super ? minimum_of(type, p, j / 16) * x[j] : 0;
    }
    if (!is_super) {
        return fmaf((float)whole * scale_of(type, p), scale, sum);
    }
    sum = fmaf((float)whole, scale_of(type, p) * scale, sum);
    if (type == GGML_TYPE_Q2_K) {
        sum = fmaf(-(float)minima, half_at(p + 82) * scale, sum);
    }
    if (type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q5_K) {
        sum = fmaf(-(float)minima, half_at(p + 2) * scale, sum);
    }
    return sum;
}
