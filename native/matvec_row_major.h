// Products of few vectors with the types that lie row after row: Q8_0, eight rows at once, and Q6_K.
//
// Knows: the rows that are multiplied at once. Refuses to know: matrices, nodes and threads.

#pragma once

#include <math.h>
#include <string.h>

#include "activations.h"
#include "matvec_stream.h"

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

typedef uint16_t row_scales __attribute__((vector_size(16)));

// Returns the sums of eight registers.
INLINE __m256i eight_sums(const __m256i x[8]) {
    __m256i of_four[2];  // halves of sums
    for (int i = 0; i < 2; i++) {
        const __m256i *const four = x + 4 * i;
        of_four[i] =
            _mm256_hadd_epi32(_mm256_hadd_epi32(four[0], four[1]), _mm256_hadd_epi32(four[2], four[3]));
    }
    return _mm256_add_epi32(_mm256_permute2x128_si256(of_four[0], of_four[1], 0x20),
                            _mm256_permute2x128_si256(of_four[0], of_four[1], 0x31));
}

// Multiplies n_rows rows of Q8_0, ROW_GROUP at most, with n vectors. vectors: [n][n_blocks]. out: [n][n_rows].
INLINE void matvec_q8_0(const int n, const struct q8_0_row *first, int64_t n_rows,
                        const struct activation_block *const *vectors, int64_t n_blocks, float *const *out) {
    const struct q8_0_row *rows[ROW_GROUP];
    __m256 sums[MAX_VECTORS] = {0};
    for (int r = 0; r < ROW_GROUP; r++) {
        rows[r] = first + (r < n_rows ? r : n_rows - 1) * n_blocks;  // the last row stands for those that lack
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        const int64_t jump = past_end(b, n_blocks, sizeof *first, ROW_GROUP) ? (ROW_GROUP - 1) * n_blocks : 0;
        row_scales scales;  // in a register: through memory, a load would wait for eight stores
        for (int r = 0; r < ROW_GROUP; r++) {
            prefetch_at_distance(&rows[r][b + jump], 1, PREFETCH_AHEAD / ROW_GROUP);
            scales[r] = rows[r][b].scale;
        }
        const __m256 of_rows = _mm256_cvtph_ps((__m128i)scales);
        for (int i = 0; i < n; i++) {
            const struct activation_block *const v = &vectors[i][b];
            const __m256i x = load_bytes(v->numbers);
            __m256i dots[ROW_GROUP];
            for (int r = 0; r < ROW_GROUP; r++) {
                const __m256i numbers = load_bytes(rows[r][b].numbers);
                dots[r] = dot_of_eight(_mm256_abs_epi8(numbers), _mm256_sign_epi8(x, numbers));
            }
            const __m256 whole = _mm256_cvtepi32_ps(eight_sums(dots));
            sums[i] = _mm256_fmadd_ps(whole, _mm256_mul_ps(of_rows, _mm256_set1_ps(v->scale)), sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        memcpy(out[i], &sums[i], (size_t)n_rows * sizeof(float));
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

// Multiplies a row of n_super superblocks of Q6_K with n vectors. vectors: [n][n_super], as pack_for_q6_k
// leaves them. out: [n][1].
INLINE void matvec_q6_k(const int n, const struct q6_k_row *row, const struct activation_block *const *vectors,
                        int64_t n_super, float *const *out) {
    float sums[MAX_VECTORS] = {0};
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
            sums[i] = fmaf((float)_mm512_reduce_add_epi32(whole[i]), scale * v->scale, sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        out[i][0] = sums[i];
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

INLINE int32_t sum_of_lanes(__m256i x) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

enum { Q6_K_ZERO_POINT = 32 / 8 };  // see eighths_of_corrections

static inline void pack_for_q6_k(struct activation_block *blocks, int64_t n_blocks) {
    (void)blocks;  // matvec_q6_k takes blocks as they are
    (void)n_blocks;
}

// Multiplies a row of n_super superblocks of Q6_K with n vectors. vectors: [n][n_super * SUPERBLOCK]. out:
// [n][1].
INLINE void matvec_q6_k(const int n, const struct q6_k_row *row, const struct activation_block *const *vectors,
                        int64_t n_super, float *const *out) {
    float sums[MAX_VECTORS] = {0};
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
            const float factor = scale * vectors[i][s * SUPERBLOCK].scale;
            sums[i] = fmaf((float)sum_of_lanes(whole[i]), factor, sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        out[i][0] = sums[i];
    }
}

#endif
