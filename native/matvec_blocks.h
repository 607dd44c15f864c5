// Products of few vectors with types whose blocks lie row after row: eight rows at once.
//
// Knows: the rows that are multiplied at once. Refuses to know: how the blocks of a type are unpacked.

#pragma once

#include <string.h>

#include "activations.h"
#include "block_types.h"
#include "matvec_stream.h"

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

// Returns the products of 32 numbers, as block_numbers_of has them, with x, in eight sums: raised by
// block_raised_by.
INLINE __m256i dot_of_eight(const bool is_signed, __m256i numbers, __m256i x) {
#if HAS_VNNI
    if (is_signed) {
        numbers = _mm256_xor_si256(numbers, _mm256_set1_epi8((char)0x80));
    }
#if defined(__AVX512VNNI__)
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), numbers, x);
#else
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), numbers, x);
#endif
#else
    const __m256i products = is_signed
                                 ? _mm256_maddubs_epi16(_mm256_abs_epi8(numbers), _mm256_sign_epi8(x, numbers))
                                 : _mm256_maddubs_epi16(numbers, x);
    return _mm256_madd_epi16(products, _mm256_set1_epi16(1));
#endif
}

// Multiplies n_rows rows, ROW_GROUP at most, with n vectors. vectors: [n][n_blocks], quantized with block_raised_by
// as their zero point. out: [n][n_rows].
//
// Meanwhile the next rows are asked for, from their first byte to their last: a core asks ahead for one stream
// better than for eight.
INLINE void matvec_blocks(const enum ggml_type type, const int n, const char *from, size_t row_bytes,
                          int64_t n_rows, const struct activation_block *const *vectors, int64_t n_blocks,
                          float *const *out) {
    const int bytes = (int)block_types[type].bytes;
    const char *rows[ROW_GROUP], *next = from + ROW_GROUP * row_bytes;
    __m256 sums[MAX_VECTORS] = {0};
    for (int r = 0; r < ROW_GROUP; r++) {
        rows[r] = from + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;  // the last stands for those that lack
    }
    for (int64_t b = 0; b < n_blocks; b++, next += ROW_GROUP * bytes) {
        __m256i numbers[ROW_GROUP];
        eight_halves scales;  // in a register: through memory, a load would wait for eight stores
        prefetch_at_distance(next, ROW_GROUP * bytes, 0);
        for (int r = 0; r < ROW_GROUP; r++) {
            const char *const block = rows[r] + b * bytes;
            numbers[r] = block_numbers_of(type, block);
            scales[r] = block_scale_of(type, block);
        }
        const __m256 of_rows = eight_block_scales(type, scales);
        for (int i = 0; i < n; i++) {
            const struct activation_block *const v = &vectors[i][b];
            const __m256i x = load_bytes(v->numbers), off = _mm256_set1_epi32(v->corrections[0] + v->corrections[1]);
            __m256i dots[ROW_GROUP];
            for (int r = 0; r < ROW_GROUP; r++) {
                dots[r] = dot_of_eight(block_types[type].is_signed, numbers[r], x);
            }
            const __m256 whole = _mm256_cvtepi32_ps(_mm256_add_epi32(eight_sums(dots), off));
            sums[i] = _mm256_fmadd_ps(whole, _mm256_mul_ps(of_rows, _mm256_set1_ps(v->scale)), sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        memcpy(out[i], &sums[i], (size_t)n_rows * sizeof(float));
    }
}
