// Types whose blocks of 32 numbers have a scale each and lie row after row: a page for each, as in row_types.h.
//
// A weight is scale * (number - zero point).

#pragma once

#include "row_types.h"

#if HAS_PRODUCTS

struct block_type {
    size_t bytes;
    bool is_signed;        // numbers are; none is -128
    int32_t zero_point;    // of other numbers
    int quads_in_16_bits;  // times four products, whose sum fits 16 bits if it is kept as two numbers
};

// A block of Q5_0: numbers of five bits, less 16. bytes[j] has the lower bits of numbers j and 16 + j, bit j of high
// the upper one of number j.
struct q5_0_block {
    uint16_t scale;
    uint8_t high[4], bytes[QUANT_BLOCK / 2];
};

// Of IQ4_NL: places in IQ4_XS's table.
struct iq4_nl_block {
    uint16_t scale;
    uint8_t bytes[QUANT_BLOCK / 2];
};

// Of MXFP4: floats of four bits, times two, from -12 to 12. exponent: of two, plus 127.
struct mxfp4_block {
    uint8_t exponent, bytes[QUANT_BLOCK / 2];
};

static const struct block_type block_types[] = {
    [GGML_TYPE_Q8_0] = {sizeof(struct q8_0_row), true, 0, 0},
    [GGML_TYPE_Q5_0] = {sizeof(struct q5_0_block), false, 16, 4},
    [GGML_TYPE_IQ4_NL] = {sizeof(struct iq4_nl_block), true, 0, 0},
    [GGML_TYPE_MXFP4] = {sizeof(struct mxfp4_block), false, 12, 4},
};

#define EACH_BLOCK_TYPE(CASE) \
    CASE(GGML_TYPE_Q8_0);     \
    CASE(GGML_TYPE_Q5_0);     \
    CASE(GGML_TYPE_IQ4_NL);   \
    CASE(GGML_TYPE_MXFP4)

INLINE bool is_block_type(enum ggml_type type) {
    return type < sizeof block_types / sizeof *block_types && block_types[type].bytes > 0;
}

INLINE bool has_superblocks(enum ggml_type type) { return type == GGML_TYPE_Q4_K || is_row_type(type); }

// As raised_by of a row type.
INLINE int32_t block_raised_by(const enum ggml_type type) {
    return block_types[type].is_signed ? (HAS_VNNI ? 128 : 0) : block_types[type].zero_point;
}

// Returns bytes of sixteen where bits are set, else of zero.
INLINE __m256i sixteens_of(const uint8_t bits[4]) {
    int32_t x;
    memcpy(&x, bits, sizeof x);
    const __m256i order = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i own = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i of_byte = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(x), order), own);
    return _mm256_and_si256(_mm256_cmpeq_epi8(of_byte, own), _mm256_set1_epi8(16));
}

// Returns what the numbers of MXFP4 stand for, plus 12.
INLINE __m128i mxfp4_values(void) {
    return _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
}

// Returns the numbers of a block.
INLINE __m256i block_numbers_of(const enum ggml_type type, const void *block) {
    if (type == GGML_TYPE_Q5_0) {
        const struct q5_0_block *const from = block;
        return _mm256_or_si256(halves_of(from->bytes), sixteens_of(from->high));
    }
    if (type == GGML_TYPE_IQ4_NL) {
        return looked_up(iq4_values(), halves_of(((const struct iq4_nl_block *)block)->bytes));
    }
    if (type == GGML_TYPE_MXFP4) {
        return looked_up(mxfp4_values(), halves_of(((const struct mxfp4_block *)block)->bytes));
    }
    return load_bytes(((const struct q8_0_row *)block)->numbers);
}

// Returns the scale of a block in 16 bits, see eight_block_scales.
INLINE uint16_t block_scale_of(const enum ggml_type type, const void *block) {
    if (type == GGML_TYPE_MXFP4) {
        const uint8_t e = ((const struct mxfp4_block *)block)->exponent;
        return (uint16_t)(e > 1 ? (e - 1) << 7 : 0x20 << e);  // below that, floats are denormal
    }
    return type == GGML_TYPE_Q5_0     ? ((const struct q5_0_block *)block)->scale
           : type == GGML_TYPE_IQ4_NL ? ((const struct iq4_nl_block *)block)->scale
                                      : ((const struct q8_0_row *)block)->scale;
}

typedef uint16_t eight_halves __attribute__((vector_size(16)));

// Converts eight scales: 16-bit floats, of MXFP4 the upper halves of float32.
INLINE __m256 eight_block_scales(const enum ggml_type type, eight_halves scales) {
    if (type != GGML_TYPE_MXFP4) {
        return _mm256_cvtph_ps((__m128i)scales);
    }
    const __m256i wide = _mm256_cvtepu16_epi32((__m128i)scales);
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

#endif
