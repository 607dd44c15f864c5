// What products with few vectors and with many share: vectors of 8-bit numbers, weights as llama.cpp repacks
// them, and how their products are added up.

#pragma once

#include <stdbool.h>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define HAS_PRODUCTS 1

#include <ggml.h>
#include <immintrin.h>
#include <stdint.h>

#include "attributes.h"
#include "numbers.h"

#if defined(__AVX512VNNI__)
#define HAS_VNNI 1
enum { LANES = 16 };
#else
enum { LANES = 8 };
#if defined(__AVXVNNI__)
#define HAS_VNNI 1
#else
#define HAS_VNNI 0
#endif
#endif

enum {
    BLOCK = 32,  // numbers with a scale
    SUPER = 8,   // blocks of a superblock
    GROUP = 8    // rows that llama.cpp lays out together
};

typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef float floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t words_of_blocks __attribute__((vector_size(SUPER * 4)));
typedef float floats_anywhere __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// Eight rows' blocks of Q4_0: of each byte the upper bits of both halves are flipped; byte 8 i + j is row i's
// j-th, byte 64 + 8 i + j its (8 + j)-th.
struct q4_0_group {
    uint16_t scales[GROUP];
    uint8_t bytes[2][GROUP][8];
};

// Eight rows' superblocks of Q4_K: for each block eight scales and eight minima of six bits, then eight bytes
// of each row in turn, of which the lower halves are of one block and the upper of the next.
struct q4_k_group {
    uint16_t scales[GROUP], minima[GROUP];
    uint8_t of_blocks[SUPER][12];
    uint8_t bytes[SUPER / 2][4][GROUP][8];
};

// A row's superblock of Q6_K: lower four and upper two bits, and a scale for each 16 numbers.
struct q6_k_row {
    uint8_t lower[2][2][BLOCK], upper[2][BLOCK];
    int8_t scales[2 * SUPER];
    uint16_t scale;
};

// A row's block of Q8_0.
struct q8_0_row {
    uint16_t scale;
    int8_t numbers[BLOCK];
};

// A block of a vector, rounded to 8 bits.
struct q8_block {
    float scale, sum;        // sum: of what the numbers stand for
    int32_t corrections[2];  // minus the numbers' sums, of both halves, times what weights are raised by
    int8_t numbers[BLOCK];
};

// Rounds a vector as llama.cpp does: 32 numbers at a time for types whose scales are for as many, 256 for
// those with superblocks. raised: by how much weights are.
void round_vector(const float *x, int64_t n_blocks, bool is_super, int32_t raised, struct q8_block *out);

INLINE bool has_superblocks(enum ggml_type type) { return type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q6_K; }

// Whether a matrix is of Q6_K or Q8_0, row after row.
bool is_plain(const struct ggml_tensor *w);

// Whether a node is the product of vectors with such a matrix, or with one of Q4_0 or Q4_K that lies as is said
// here; or with those of some experts.
bool is_known_product(const struct ggml_tensor *t);

// Cases for which the compiler knows the number.
#define ONE_TO_EIGHT(CASE) \
    CASE(1);               \
    CASE(2);               \
    CASE(3);               \
    CASE(4);               \
    CASE(5);               \
    CASE(6);               \
    CASE(7);               \
    CASE(8)

INLINE __m256i load_bytes(const void *from) { return _mm256_loadu_si256(from); }

// Halves of bytes.
INLINE __m256i lower_bits(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(0x0f)); }

INLINE __m256i upper_bits(__m256i v) { return lower_bits(_mm256_srli_epi16(v, 4)); }

// The numbers of a block of a superblock, raised by 32.
INLINE __m256i numbers_of(const struct q6_k_row *row, const int block) {
    const int i = block / 4, part = block % 4;
    const __m256i bytes = load_bytes(row->lower[i][part % 2]), upper = load_bytes(row->upper[i]);
    const __m256i shifted = part == 0   ? _mm256_slli_epi16(upper, 4)
                            : part == 1 ? _mm256_slli_epi16(upper, 2)
                            : part == 2 ? upper
                                        : _mm256_srli_epi16(upper, 2);
    const __m256i two_bits = _mm256_and_si256(shifted, _mm256_set1_epi8(0x30));
    return _mm256_or_si256(part < 2 ? lower_bits(bytes) : upper_bits(bytes), two_bits);
}

INLINE __m256 load_halves(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

// Scales and minima of a superblock's blocks of eight rows: numbers of six bits.
struct six_bits {
    uint8_t scales[SUPER][GROUP], minima[SUPER][GROUP];
};

// Four rows of each block, and the four after them.
INLINE void store_rows_of_blocks(uint8_t (*out)[GROUP], words_of_blocks rows, words_of_blocks after) {
    const words_of_blocks first = __builtin_shufflevector(rows, after, 0, 8, 1, 9, 2, 10, 3, 11);
    const words_of_blocks second = __builtin_shufflevector(rows, after, 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(out, &first, sizeof first);
    memcpy(out + SUPER / 2, &second, sizeof second);
}

INLINE struct six_bits six_bits_of(const struct q4_k_group *g) {
    words_of_blocks a, b, c;  // three words of the first block, then those of the next
    memcpy(&a, g->of_blocks[0], sizeof a);
    memcpy(&b, (const char *)g->of_blocks + sizeof a, sizeof b);
    memcpy(&c, (const char *)g->of_blocks + 2 * sizeof a, sizeof c);
    const words_of_blocks x = __builtin_shufflevector(a, b, 0, 3, 6, 9, 12, 15, 0, 0);
    const words_of_blocks y = __builtin_shufflevector(a, b, 1, 4, 7, 10, 13, 0, 0, 0);
    const words_of_blocks z = __builtin_shufflevector(a, b, 2, 5, 8, 11, 14, 0, 0, 0);
    // Lower bits of four rows' scales with the upper two of the others', the same of minima; the others' lower
    // four of both.
    const words_of_blocks scales = __builtin_shufflevector(x, c, 0, 1, 2, 3, 4, 5, 10, 13);
    const words_of_blocks minima = __builtin_shufflevector(y, c, 0, 1, 2, 3, 4, 8, 11, 14);
    const words_of_blocks others = __builtin_shufflevector(z, c, 0, 1, 2, 3, 4, 9, 12, 15);
    struct six_bits out;
    store_rows_of_blocks(out.scales, scales & 0x3f3f3f3fu, (others & 0x0f0f0f0fu) | (scales >> 2 & 0x30303030u));
    store_rows_of_blocks(out.minima, minima & 0x3f3f3f3fu,
                         (others >> 4 & 0x0f0f0f0fu) | (minima >> 2 & 0x30303030u));
    return out;
}

INLINE __m256 floats_of_bytes(const uint8_t *eight) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)eight)));
}

#if HAS_VNNI

INLINE ints in_32_bits(ints sum) { return sum; }

// Adds sums of 16 bits, multiplied with numbers below 256, of which each lane has its own.
INLINE ints add_scaled(ints to, ints sum, ints factors) {
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpwssd_epi32((__m512i)to, (__m512i)sum, (__m512i)factors);
#else
    return (ints)_mm256_dpwssd_avx_epi32((__m256i)to, (__m256i)sum, (__m256i)factors);
#endif
}

// Adds to each lane the products of four numbers of a row (of 0 to 255) and of a vector.
INLINE ints add(ints sum, ints rows, ints vector) {
#if defined(__AVX512VNNI__)
    return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)rows, (__m512i)vector);
#else
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)rows, (__m256i)vector);
#endif
}

#else

INLINE ints in_32_bits(ints sum) { return (ints)_mm256_madd_epi16((__m256i)sum, _mm256_set1_epi16(1)); }

// Adds both halves of each lane, multiplied with numbers below 256, of which each has its own.
INLINE ints add_scaled(ints to, ints sum, ints factors) {
    return to + (ints)_mm256_madd_epi16((__m256i)sum, (__m256i)factors);
}

// Adds to the two halves of each lane the products of two numbers of a row each, which have to fit 16 bits.
INLINE ints add(ints sum, ints rows, ints vector) {
    return (ints)_mm256_add_epi16((__m256i)sum, _mm256_maddubs_epi16((__m256i)rows, (__m256i)vector));
}

#endif

#else
#define HAS_PRODUCTS 0
#endif

// Says whether this llama.cpp repacks matrices as it does on processors with AVX2; before, none is taken for
// repacked.
void set_repacks(bool repacks);
