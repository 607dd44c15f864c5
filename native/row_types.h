// Types whose superblocks lie row after row: a page for each says how its numbers, factors and minima are unpacked,
// and serves the products with few vectors and with many.
//
// A weight is scale * factor * (number - zero point), or scale * factor * number - minimum scale * minimum. Sixteen
// numbers have a factor and a minimum.

#pragma once

#include "weight_layout.h"

#if HAS_PRODUCTS

struct row_type {
    size_t bytes;        // of a superblock
    bool has_minima;     // then there is no zero point
    bool is_signed;      // numbers are; none is -128
    int32_t zero_point;  // of other numbers
    int n_scales;        // that differ, of a block
    int quads_in_16_bits;  // times four products, whose sum fits 16 bits if it is kept as two numbers
    bool is_small;         // they are scaled in 16 bits; with VNNI those of all numbers that have a scale
};

// A row's superblock of Q2_K: numbers of two bits. factors: in the lower halves, minima in the upper. bytes[i][j]
// has number j of the blocks 4 i to 4 i + 3.
struct q2_k_row {
    uint8_t factors[2 * SUPERBLOCK], bytes[2][QUANT_BLOCK];
    uint16_t scale, minimum_scale;
};

// Of Q3_K: numbers of three bits, less 4. Bit b of high[j] is the upper one of number j of block b. Factors have
// six bits, less 32.
struct q3_k_row {
    uint8_t high[QUANT_BLOCK], low[2][QUANT_BLOCK], packed_factors[12];
    uint16_t scale;
};

// Of Q5_K: numbers of five bits; a block has a factor and a minimum of six bits. low[i][j] has number j of the
// blocks 2 i and 2 i + 1.
struct q5_k_row {
    uint16_t scale, minimum_scale;
    uint8_t packed_factors[12], high[QUANT_BLOCK], low[SUPERBLOCK / 2][QUANT_BLOCK];
};

// Of IQ4_XS: places in a table; a block has a factor of six bits, less 32. bytes[b][j] has numbers j and 16 + j.
struct iq4_xs_row {
    uint16_t scale, high_factors;
    uint8_t low_factors[SUPERBLOCK / 2], bytes[SUPERBLOCK][QUANT_BLOCK / 2];
};

static const struct row_type row_types[] = {
    [GGML_TYPE_Q2_K] = {sizeof(struct q2_k_row), true, false, 0, 2, 4, true},
    [GGML_TYPE_Q3_K] = {sizeof(struct q3_k_row), false, false, 4, 2, 4, true},
    [GGML_TYPE_Q5_K] = {sizeof(struct q5_k_row), true, false, 0, 1, 4, !HAS_VNNI},
    [GGML_TYPE_Q6_K] = {sizeof(struct q6_k_row), false, false, 32, 2, 2, false},
    [GGML_TYPE_IQ4_XS] = {sizeof(struct iq4_xs_row), false, true, 0, 1, 0, false},
};

// Cases of a switch, in each of which the compiler knows the type.
#define EACH_ROW_TYPE(CASE) \
    CASE(GGML_TYPE_Q2_K);   \
    CASE(GGML_TYPE_Q3_K);   \
    CASE(GGML_TYPE_Q5_K);   \
    CASE(GGML_TYPE_Q6_K);   \
    CASE(GGML_TYPE_IQ4_XS)

// What the numbers of a type are too large by, as they are multiplied: a zero point, or what leaves them no signs.
INLINE int32_t raised_by(const enum ggml_type type) {
    return row_types[type].is_signed ? (HAS_VNNI ? 128 : 0) : row_types[type].zero_point;
}

INLINE bool is_row_type(enum ggml_type type) {
    return type < sizeof row_types / sizeof *row_types && row_types[type].bytes > 0;
}

// Tells whether a panel wants both corrections of a block as one number.
INLINE bool has_paired_corrections(enum ggml_type type) { return is_row_type(type) && row_types[type].has_minima; }

// ---------------------------------------------------------------- numbers

INLINE __m256i shifted_right(__m256i x, const int by) {
    return by >= 0 ? _mm256_srli_epi16(x, by) : _mm256_slli_epi16(x, -by);
}

// Returns the bits of `a` where `mask` has ones, else those of `b`, of which `both` are wanted.
INLINE __m256i merged(__m256i a, __m256i b, const char mask, const char both) {
    const __m256i m = _mm256_set1_epi8(mask), rest = _mm256_set1_epi8((char)(both & ~mask));
    return _mm256_or_si256(_mm256_and_si256(a, m), _mm256_and_si256(b, rest));
}

// Returns the lower halves of sixteen bytes, then the upper.
INLINE __m256i halves_of(const uint8_t bytes[QUANT_BLOCK / 2]) {
    const __m128i x = _mm_loadu_si128((const __m128i *)bytes);
    return low_nibbles(_mm256_set_m128i(_mm_srli_epi16(x, 4), x));
}

INLINE __m256i looked_up(__m128i table, __m256i places) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), places);
}

INLINE __m128i iq4_values(void) {
    return _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
}

INLINE __m256i iq4_xs_block(const struct iq4_xs_row *row, const int b) {
    return looked_up(iq4_values(), halves_of(row->bytes[b]));
}

// Returns the numbers of block b.
INLINE __m256i numbers_of_block(const enum ggml_type type, const void *superblock, const int b) {
    if (type == GGML_TYPE_Q2_K) {
        const struct q2_k_row *const row = superblock;
        return _mm256_and_si256(shifted_right(load_bytes(row->bytes[b / 4]), 2 * (b % 4)), _mm256_set1_epi8(3));
    }
    if (type == GGML_TYPE_Q3_K) {
        const struct q3_k_row *const row = superblock;
        const __m256i low = shifted_right(load_bytes(row->low[b / 4]), 2 * (b % 4));
        return merged(low, shifted_right(load_bytes(row->high), b - 2), 3, 7);
    }
    if (type == GGML_TYPE_Q5_K) {
        const struct q5_k_row *const row = superblock;
        const __m256i low = shifted_right(load_bytes(row->low[b / 2]), 4 * (b % 2));
        return merged(low, shifted_right(load_bytes(row->high), b - 4), 0x0f, 0x1f);
    }
    if (type == GGML_TYPE_IQ4_XS) {
        return iq4_xs_block(superblock, b);
    }
    return q6_k_numbers_of(superblock, b);
}

#if defined(__AVX512VNNI__)

// Shifts the two halves by numbers of their own: to the right if they are positive.
INLINE __m512i halves_shifted_right(__m512i x, const int first, const int second) {
    const __m512i right = _mm512_inserti64x4(_mm512_set1_epi16((short)first), _mm256_set1_epi16((short)second), 1);
    const __m512i left = _mm512_sub_epi16(_mm512_setzero_si512(), right);
    return first + second >= 0 ? _mm512_srlv_epi16(x, right) : _mm512_sllv_epi16(x, left);
}

INLINE __m512i twice(const void *from) { return _mm512_broadcast_i64x4(load_bytes(from)); }

INLINE __m512i merged_512(__m512i a, __m512i b, const char mask, const char both) {
    return _mm512_and_si512(_mm512_ternarylogic_epi32(_mm512_set1_epi8(mask), a, b, 0xca), _mm512_set1_epi8(both));
}

INLINE __m512i q6_k_two_blocks(const struct q6_k_row *row, const int b) {
    const __m512i bytes = _mm512_loadu_si512(row->low[b / 4]), high = twice(row->high[b / 4]);
    const int part = b % 4;
    const __m512i low = part < 2 ? bytes : _mm512_srli_epi16(bytes, 4);
    return merged_512(low, halves_shifted_right(high, 2 * part - 4, 2 * part - 2), 0x0f, 0x3f);
}

INLINE __m512i iq4_xs_two_blocks(const struct iq4_xs_row *row, const int b) {
    const __m512i order = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);
    const __m512i bytes = _mm512_permutexvar_epi64(order, _mm512_castsi256_si512(load_bytes(row->bytes[b])));
    const __m512i shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
    const __m512i places = _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(0x0f));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(iq4_values()), places);
}

// Returns the numbers of blocks b, which is even, and b + 1.
INLINE __m512i numbers_of_two_blocks(const enum ggml_type type, const void *superblock, const int b) {
    if (type == GGML_TYPE_Q2_K) {
        const struct q2_k_row *const row = superblock;
        const int by = 2 * (b % 4);
        return _mm512_and_si512(halves_shifted_right(twice(row->bytes[b / 4]), by, by + 2), _mm512_set1_epi8(3));
    }
    if (type == GGML_TYPE_Q3_K) {
        const struct q3_k_row *const row = superblock;
        const __m512i low = halves_shifted_right(twice(row->low[b / 4]), 2 * (b % 4), 2 * (b % 4) + 2);
        return merged_512(low, halves_shifted_right(twice(row->high), b - 2, b - 1), 3, 7);
    }
    if (type == GGML_TYPE_Q5_K) {
        const struct q5_k_row *const row = superblock;
        const __m512i low = halves_shifted_right(twice(row->low[b / 2]), 0, 4);
        return merged_512(low, halves_shifted_right(twice(row->high), b - 4, b - 3), 0x0f, 0x1f);
    }
    if (type == GGML_TYPE_IQ4_XS) {
        return iq4_xs_two_blocks(superblock, b);
    }
    return q6_k_two_blocks(superblock, b);
}

#endif

// ---------------------------------------------------------------- factors

// Sixteen bytes each: of all numbers' factors, with their signs, and of the minima.
struct row_factors {
    __m128i factors, minima;
};

INLINE __m128i bytes_of(uint64_t low, uint64_t high) {
    return _mm_set_epi64x((long long)high, (long long)low);
}

// Returns the same for both halves of a block.
INLINE __m128i each_twice(uint64_t bytes) {
    const __m128i x = bytes_of(bytes, 0);
    return _mm_unpacklo_epi8(x, x);
}

INLINE __m128i q3_k_factors(const uint8_t packed[12]) {
    uint64_t low;
    uint32_t high;
    memcpy(&low, packed, sizeof low);
    memcpy(&high, packed + sizeof low, sizeof high);
    // Two bits of each of four factors, at four places.
    const uint64_t two = (uint64_t)high >> 2 << 32 | high, four = 0x0f0f0f0f0f0f0f0f;
    const uint64_t first = (low & four) | (two & 0x0303030303030303) << 4;
    const uint64_t last = (low >> 4 & four) | (two & 0x3030303030303030);
    return _mm_sub_epi8(bytes_of(first, last), _mm_set1_epi8(32));
}

// Scales and minima of six bits, as Q4_K has them too.
INLINE struct row_factors q5_k_factors(const uint8_t packed[12]) {
    uint32_t x[3];
    memcpy(x, packed, sizeof x);
    const uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x30303030;
    const uint64_t last_factors = (x[2] & four) | (x[0] >> 2 & two);
    const uint64_t last_minima = (x[2] >> 4 & four) | (x[1] >> 2 & two);
    return (struct row_factors){each_twice((x[0] & six) | last_factors << 32),
                                each_twice((x[1] & six) | last_minima << 32)};
}

INLINE __m128i iq4_xs_factors(const struct iq4_xs_row *row) {
    uint32_t low;
    memcpy(&low, row->low_factors, sizeof low);
    // To each byte its four lower bits, and two of sixteen.
    const __m128i halves = _mm_unpacklo_epi8(_mm_cvtsi32_si128((int)low), _mm_cvtsi32_si128((int)(low >> 4)));
    const __m128i high = _mm_mullo_epi16(_mm_set1_epi16((short)row->high_factors),
                                         _mm_setr_epi16(16384, 4096, 1024, 256, 64, 16, 4, 1));
    const __m128i upper = _mm_srli_epi16(_mm_and_si128(high, _mm_set1_epi16((short)0xc000)), 10);
    const __m128i four = _mm_and_si128(halves, _mm_set1_epi8(0x0f));
    const __m128i factors = _mm_sub_epi8(_mm_or_si128(four, _mm_packus_epi16(upper, upper)), _mm_set1_epi8(32));
    return _mm_unpacklo_epi8(factors, factors);
}

INLINE struct row_factors row_factors_of(const enum ggml_type type, const void *superblock) {
    if (type == GGML_TYPE_Q2_K) {
        const __m128i both = _mm_loadu_si128((const __m128i *)((const struct q2_k_row *)superblock)->factors);
        const __m128i four = _mm_set1_epi8(0x0f);
        return (struct row_factors){_mm_and_si128(both, four), _mm_and_si128(_mm_srli_epi16(both, 4), four)};
    }
    if (type == GGML_TYPE_Q3_K) {
        const __m128i factors = q3_k_factors(((const struct q3_k_row *)superblock)->packed_factors);
        return (struct row_factors){factors, factors};
    }
    if (type == GGML_TYPE_Q5_K) {
        return q5_k_factors(((const struct q5_k_row *)superblock)->packed_factors);
    }
    const __m128i factors = type == GGML_TYPE_IQ4_XS
                                ? iq4_xs_factors(superblock)
                                : _mm_loadu_si128((const __m128i *)((const struct q6_k_row *)superblock)->scales);
    return (struct row_factors){factors, factors};
}

// Returns the scale of a superblock, as 16 bits of a float.
INLINE uint16_t row_scale_of(const enum ggml_type type, const void *superblock) {
    return type == GGML_TYPE_Q2_K   ? ((const struct q2_k_row *)superblock)->scale
           : type == GGML_TYPE_Q3_K ? ((const struct q3_k_row *)superblock)->scale
           : type == GGML_TYPE_Q5_K ? ((const struct q5_k_row *)superblock)->scale
           : type == GGML_TYPE_Q6_K ? ((const struct q6_k_row *)superblock)->scale
                                    : ((const struct iq4_xs_row *)superblock)->scale;
}

// Returns the scale of its minima.
INLINE uint16_t row_minimum_scale_of(const enum ggml_type type, const void *superblock) {
    return type == GGML_TYPE_Q2_K ? ((const struct q2_k_row *)superblock)->minimum_scale
                                  : ((const struct q5_k_row *)superblock)->minimum_scale;
}

#endif
