// Types as llama.cpp interleaves their rows when it repacks a matrix, eight in a group: how a group's numbers,
// factors and scales are unpacked. Q4_0, IQ4_NL and MXFP4 share a page, since a byte of theirs has two numbers.

#pragma once

#include "block_types.h"

#if HAS_PRODUCTS

// Eight rows' blocks of Q4_0 or IQ4_NL. Byte [0][i][j] is row i's j-th, byte [1][i][j] its (8 + j)-th: the lower
// half is number j (or 8 + j), the upper half number 16 + j (or 24 + j). Numbers of Q4_0 have four bits, less 8,
// and of each byte the upper bits of both halves are flipped. Those of IQ4_NL are places in a table.
struct nibble_group {
    uint16_t scales[ROW_GROUP];
    uint8_t bytes[2][ROW_GROUP][8];
};

// Of MXFP4, as in mxfp4_block.
struct mxfp4_group {
    uint8_t exponents[ROW_GROUP], bytes[2][ROW_GROUP][8];
};

// Eight rows' superblocks of Q2_K. factors[b][i]: row i's two of block b, see q2_k_row. bytes[h][k][i]: row i's
// numbers 8 k to 8 k + 7 of the blocks 4 h to 4 h + 3, from the lowest bits on.
struct q2_k_group {
    uint16_t scales[ROW_GROUP], minimum_scales[ROW_GROUP];
    uint8_t factors[SUPERBLOCK][ROW_GROUP][2], bytes[2][4][ROW_GROUP][8];
};

// Eight rows' superblocks of Q4_K: numbers of four bits, each block with a scale and a minimum of six bits, see
// q4_k_factors_of. bytes[i][j][r]: row r's numbers 8 j to 8 j + 7, of block 2 i in the lower halves, of block
// 2 i + 1 in the upper.
struct q4_k_group {
    uint16_t scales[ROW_GROUP], minima[ROW_GROUP];
    uint8_t packed_factors[SUPERBLOCK][12];
    uint8_t bytes[SUPERBLOCK / 2][4][ROW_GROUP][8];
};

#define EACH_NIBBLE_TYPE(CASE) \
    CASE(GGML_TYPE_Q4_0);      \
    CASE(GGML_TYPE_IQ4_NL);    \
    CASE(GGML_TYPE_MXFP4)

INLINE bool is_nibble_type(enum ggml_type type) {
    return type == GGML_TYPE_Q4_0 || type == GGML_TYPE_IQ4_NL || type == GGML_TYPE_MXFP4;
}

INLINE size_t nibble_group_bytes(const enum ggml_type type) {
    return type == GGML_TYPE_MXFP4 ? sizeof(struct mxfp4_group) : sizeof(struct nibble_group);
}

INLINE const uint8_t (*nibble_bytes_of(const enum ggml_type type, const void *group))[ROW_GROUP][8] {
    return type == GGML_TYPE_MXFP4 ? ((const struct mxfp4_group *)group)->bytes
                                   : ((const struct nibble_group *)group)->bytes;
}

// Tells whether numbers are multiplied with their signs. Others are raised by a zero point.
INLINE bool are_nibbles_signed(const enum ggml_type type) { return type == GGML_TYPE_IQ4_NL && !HAS_VNNI; }

// Returns the numbers that places stand for, raised by block_raised_by.
INLINE __m128i nibble_values(const enum ggml_type type) {
    if (type == GGML_TYPE_MXFP4) {
        return mxfp4_values();
    }
    return are_nibbles_signed(type) ? iq4_values() : _mm_xor_si128(iq4_values(), _mm_set1_epi8((char)0x80));
}

// ---------------------------------------------------------------- scales

// Converts exponents of MXFP4, see block_scale_of: the bits of a float, or of a denormal one for 0 and 1.
INLINE __m256 floats_of_eight_exponents(__m256i e) {
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i usual = _mm256_slli_epi32(_mm256_sub_epi32(e, one), 23);
    const __m256i denormal = _mm256_slli_epi32(_mm256_add_epi32(_mm256_and_si256(e, one), one), 21);
    return _mm256_castsi256_ps(_mm256_max_epi32(usual, denormal));
}

// Returns the scales of a group's rows.
INLINE __m256 nibble_scales_of(const enum ggml_type type, const void *group) {
    if (type == GGML_TYPE_MXFP4) {
        const uint8_t *const e = ((const struct mxfp4_group *)group)->exponents;
        return floats_of_eight_exponents(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)e)));
    }
    return load_eight_halves(((const struct nibble_group *)group)->scales);
}

#if defined(__AVX512VNNI__)

INLINE __m512 floats_of_sixteen_exponents(__m512i e) {
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i usual = _mm512_slli_epi32(_mm512_sub_epi32(e, one), 23);
    const __m512i denormal = _mm512_slli_epi32(_mm512_add_epi32(_mm512_and_si512(e, one), one), 21);
    return _mm512_castsi512_ps(_mm512_max_epi32(usual, denormal));
}

// Returns the scales of two groups' rows.
INLINE __m512 nibble_scales_of_two(const enum ggml_type type, const void *first, const void *second) {
    if (type == GGML_TYPE_MXFP4) {
        uint64_t e[2];
        memcpy(&e[0], ((const struct mxfp4_group *)first)->exponents, sizeof e[0]);
        memcpy(&e[1], ((const struct mxfp4_group *)second)->exponents, sizeof e[1]);
        return floats_of_sixteen_exponents(_mm512_cvtepu8_epi32(bytes_of(e[0], e[1])));
    }
    const __m128i a = _mm_loadu_si128((const __m128i *)((const struct nibble_group *)first)->scales);
    const __m128i b = _mm_loadu_si128((const __m128i *)((const struct nibble_group *)second)->scales);
    return _mm512_cvtph_ps(_mm256_set_m128i(b, a));
}

#endif

// ---------------------------------------------------------------- factors of Q4_K

// Scales and minima of the blocks of eight rows' superblocks: numbers of six bits.
struct q4_k_factors {
    uint8_t scales[SUPERBLOCK][ROW_GROUP], minima[SUPERBLOCK][ROW_GROUP];
};

// A word, four rows' bytes, of each block.
typedef uint32_t words_of_blocks __attribute__((vector_size(SUPERBLOCK * 4)));

// Stores each block's first four rows beside its last four.
INLINE void store_factors(uint8_t (*out)[ROW_GROUP], words_of_blocks first_rows, words_of_blocks last_rows) {
    const words_of_blocks first = __builtin_shufflevector(first_rows, last_rows, 0, 8, 1, 9, 2, 10, 3, 11);
    const words_of_blocks last = __builtin_shufflevector(first_rows, last_rows, 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(out, &first, sizeof first);
    memcpy(out + SUPERBLOCK / 2, &last, sizeof last);
}

INLINE struct q4_k_factors q4_k_factors_of(const struct q4_k_group *g) {
    words_of_blocks a, b, c;  // three words of the first block, then those of the next
    memcpy(&a, g->packed_factors[0], sizeof a);
    memcpy(&b, (const char *)g->packed_factors + sizeof a, sizeof b);
    memcpy(&c, (const char *)g->packed_factors + 2 * sizeof a, sizeof c);
    const words_of_blocks x = __builtin_shufflevector(a, b, 0, 3, 6, 9, 12, 15, 0, 0);
    const words_of_blocks y = __builtin_shufflevector(a, b, 1, 4, 7, 10, 13, 0, 0, 0);
    const words_of_blocks z = __builtin_shufflevector(a, b, 2, 5, 8, 11, 14, 0, 0, 0);
    // The first two words: four rows' scales (or minima) in the lower six bits, and in the upper two the upper
    // bits of the other rows'. The third: the other rows' lower four bits of both.
    const words_of_blocks scales = __builtin_shufflevector(x, c, 0, 1, 2, 3, 4, 5, 10, 13);
    const words_of_blocks minima = __builtin_shufflevector(y, c, 0, 1, 2, 3, 4, 8, 11, 14);
    const words_of_blocks others = __builtin_shufflevector(z, c, 0, 1, 2, 3, 4, 9, 12, 15);
    struct q4_k_factors out;
    store_factors(out.scales, scales & 0x3f3f3f3fu, (others & 0x0f0f0f0fu) | (scales >> 2 & 0x30303030u));
    store_factors(out.minima, minima & 0x3f3f3f3fu, (others >> 4 & 0x0f0f0f0fu) | (minima >> 2 & 0x30303030u));
    return out;
}

#endif
