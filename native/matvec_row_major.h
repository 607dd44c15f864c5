// Products of few vectors with one row, of the types that lie row after row: Q8_0 and Q6_K.
//
// Knows: one row. Refuses to know: matrices, nodes and threads.

#pragma once

#include <string.h>

#include "activations.h"
#include "matvec_stream.h"

typedef float eight_floats __attribute__((vector_size(32)));

INLINE float horizontal_sum(__m256 x) {
    eight_floats lanes = (eight_floats)x;
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// Returns the products of 32 numbers without their signs and of 32 that took these signs over, in eight sums.
INLINE __m256i dot_of_eight(__m256i sizes, __m256i x) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), sizes, x);
#elif defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), sizes, x);
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, x), _mm256_set1_epi16(1));
#endif
}

// Multiplies a row with n vectors. vectors: [n][n_blocks]. out: [n][1].
INLINE void matvec_q8_0(const int n, const struct q8_0_row *row, const struct activation_block *const *vectors,
                        int64_t n_blocks, float *const *out) {
    __m256 sums[MAX_VECTORS];
    for (int i = 0; i < n; i++) {
        sums[i] = _mm256_setzero_ps();
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        prefetch_ahead(&row[b], 1);
        const __m256i numbers = load_bytes(row[b].numbers), sizes = _mm256_abs_epi8(numbers);
        const float scale = _cvtsh_ss(row[b].scale);
        for (int i = 0; i < n; i++) {
            const struct activation_block *const v = &vectors[i][b];
            const __m256i x = _mm256_sign_epi8(load_bytes(v->numbers), numbers);
            const __m256 whole = _mm256_cvtepi32_ps(dot_of_eight(sizes, x));
            sums[i] = _mm256_fmadd_ps(whole, _mm256_set1_ps(scale * v->scale), sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        out[i][0] = horizontal_sum(sums[i]);
    }
}

#if defined(__AVX512VNNI__)

// A superblock of activations as rows of Q6_K want it; it takes the place of its blocks. sums: of 16 numbers
// each.
struct __attribute__((may_alias)) activation_superblock {
    int8_t numbers[SUPERBLOCK * QUANT_BLOCK];
    int16_t sums[2 * SUPERBLOCK];
    float scale;
};
_Static_assert(sizeof(struct activation_superblock) <= SUPERBLOCK * sizeof(struct activation_block),
               "it takes their place");

static inline void pack_superblock(struct activation_block *blocks) {
    struct activation_superblock packed = {.scale = blocks[0].scale};
    for (int b = 0; b < SUPERBLOCK; b++) {
        memcpy(packed.numbers + b * QUANT_BLOCK, blocks[b].numbers, QUANT_BLOCK);
        packed.sums[2 * b] = (int16_t)-blocks[b].corrections[0];
        packed.sums[2 * b + 1] = (int16_t)-blocks[b].corrections[1];
    }
    memcpy(blocks, &packed, sizeof packed);
}

enum { Q6_K_ZERO_POINT = 1 };  // the corrections are plain sums, which matvec_q6_k scales

// Packs the blocks of a quantized vector for matvec_q6_k.
static inline void pack_for_q6_k(struct activation_block *blocks, int64_t n_blocks) {
    for (int64_t b = 0; b < n_blocks; b += SUPERBLOCK) {
        pack_superblock(blocks + b);
    }
}

INLINE const struct activation_superblock *superblock_of(const struct activation_block *vector, int64_t s) {
    return (const struct activation_superblock *)&vector[s * SUPERBLOCK];
}

// The numbers of four blocks, plus 32.
struct four_blocks {
    __m512i first, second;
};

INLINE struct four_blocks four_blocks_of(const struct q6_k_row *row, const int half) {
    const __m512i bytes = _mm512_loadu_si512(row->low[half]);
    const __m512i high = _mm512_broadcast_i64x4(load_bytes(row->high[half]));
    const __m512i to_left = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
    const __m512i to_right = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
    const __m512i four = _mm512_set1_epi8(0x0f), six = _mm512_set1_epi8(0x3f);
    // four ? low bits : high bits
    const __m512i first = _mm512_ternarylogic_epi32(four, bytes, _mm512_sllv_epi16(high, to_left), 0xca);
    const __m512i second =
        _mm512_ternarylogic_epi32(four, _mm512_srli_epi16(bytes, 4), _mm512_srlv_epi16(high, to_right), 0xca);
    return (struct four_blocks){_mm512_and_si512(first, six), _mm512_and_si512(second, six)};
}

// Copies four of sixteen scales, from `first` on, to four lanes each.
INLINE __m512i four_scales(__m512i scales, const int first) {
    const __m512i order = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_epi32(_mm512_add_epi32(order, _mm512_set1_epi32(first)), scales);
}

// The same with n_super superblocks of Q6_K. vectors: [n][n_super], as pack_for_q6_k leaves them.
INLINE void matvec_q6_k(const int n, const struct q6_k_row *row, const struct activation_block *const *vectors,
                        int64_t n_super, float *const *out) {
    __m512 sums[MAX_VECTORS];
    for (int i = 0; i < n; i++) {
        sums[i] = _mm512_setzero_ps();
    }
    for (int64_t s = 0; s < n_super; s++, row++) {
        prefetch_ahead(row, sizeof *row);
        const __m256i scales = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)row->scales));
        const __m512i wide = _mm512_cvtepu16_epi32(scales);  // the other half of a lane counts nothing
        __m512i whole[MAX_VECTORS];
        for (int i = 0; i < n; i++) {
            const struct activation_superblock *const v = superblock_of(vectors[i], s);
            const __m256i by_scale = _mm256_madd_epi16(scales, load_bytes(v->sums));
            whole[i] = _mm512_sub_epi32(_mm512_setzero_si512(),
                                        _mm512_zextsi256_si512(_mm256_slli_epi32(by_scale, 5)));
        }
        for (int half = 0; half < 2; half++) {
            const struct four_blocks rows = four_blocks_of(row, half);
            const __m512i first = four_scales(wide, 8 * half), second = four_scales(wide, 8 * half + 4);
            for (int i = 0; i < n; i++) {
                const struct activation_superblock *const v = superblock_of(vectors[i], s);
                const int8_t *const x = v->numbers + half * 4 * QUANT_BLOCK;
                const __m512i zero = _mm512_setzero_si512();
                const __m512i a = _mm512_dpbusd_epi32(zero, rows.first, _mm512_loadu_si512(x));
                const __m512i b =
                    _mm512_dpbusd_epi32(zero, rows.second, _mm512_loadu_si512(x + 2 * QUANT_BLOCK));
                whole[i] = _mm512_dpwssd_epi32(whole[i], a, first);
                whole[i] = _mm512_dpwssd_epi32(whole[i], b, second);
            }
        }
        const float scale = _cvtsh_ss(row->scale);
        for (int i = 0; i < n; i++) {
            const struct activation_superblock *const v = superblock_of(vectors[i], s);
            sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[i]), _mm512_set1_ps(scale * v->scale), sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        out[i][0] = _mm512_reduce_add_ps(sums[i]);
    }
}

#else

// Copies the scale at `first` to all 16-bit numbers of the low half, and the next one to those of the high
// half. scales: eight, the same in both halves.
INLINE __m256i two_scales(__m256i scales, const int first) {
    const int16_t low = (int16_t)(0x0100 * (2 * first + 1) + 2 * first), high = (int16_t)(low + 0x0202);
    const __m256i order = _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low));
    return _mm256_shuffle_epi8(scales, order);
}

// Returns the corrections of sixteen sums of two products each: for the eight sums of a scale, an eighth each.
INLINE __m256i eighths_of_corrections(const struct activation_block *v) {
    const __m256i order = _mm256_set_m128i(_mm_set1_epi16(0x0504), _mm_set1_epi16(0x0100));
    int64_t both;
    memcpy(&both, v->corrections, sizeof both);
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(both), order);
}

enum { Q6_K_ZERO_POINT = 32 / 8 };  // see eighths_of_corrections

static inline void pack_for_q6_k(struct activation_block *blocks, int64_t n_blocks) {
    (void)blocks;  // matvec_q6_k takes blocks as they are
    (void)n_blocks;
}

// The same with n_super superblocks of Q6_K. vectors: [n][n_super * SUPERBLOCK].
INLINE void matvec_q6_k(const int n, const struct q6_k_row *row, const struct activation_block *const *vectors,
                        int64_t n_super, float *const *out) {
    __m256 sums[MAX_VECTORS];
    for (int i = 0; i < n; i++) {
        sums[i] = _mm256_setzero_ps();
    }
    for (int64_t s = 0; s < n_super; s++, row++) {
        prefetch_ahead(row, sizeof *row);
        const __m128i scales = _mm_loadu_si128((const __m128i *)row->scales);
        const __m256i first = _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(scales));
        const __m256i second = _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(_mm_srli_si128(scales, 8)));
        __m256i whole[MAX_VECTORS];
        for (int i = 0; i < n; i++) {
            whole[i] = _mm256_setzero_si256();
        }
#pragma GCC unroll 8
        for (int b = 0; b < SUPERBLOCK; b++) {
            const __m256i numbers = q6_k_numbers_of(row, b);
            const __m256i factors = two_scales(b < 4 ? first : second, 2 * (b % 4));
            for (int i = 0; i < n; i++) {
                const struct activation_block *const v = &vectors[i][s * SUPERBLOCK + b];
                const __m256i products = _mm256_maddubs_epi16(numbers, load_bytes(v->numbers));
                const __m256i exact = _mm256_add_epi16(products, eighths_of_corrections(v));
                whole[i] = _mm256_add_epi32(whole[i], _mm256_madd_epi16(exact, factors));
            }
        }
        const float scale = _cvtsh_ss(row->scale);
        for (int i = 0; i < n; i++) {
            const __m256 factor = _mm256_set1_ps(scale * vectors[i][s * SUPERBLOCK].scale);
            sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[i]), factor, sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        out[i][0] = horizontal_sum(sums[i]);
    }
}

#endif
