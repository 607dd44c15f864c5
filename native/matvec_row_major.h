// Products of few vectors with Q8_0, which lies row after row: eight rows at once.
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
