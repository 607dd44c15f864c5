// Products of few vectors with types whose superblocks lie row after row: eight rows at once.
//
// Knows: the rows that are multiplied at once. Refuses to know: how the superblocks of a type are unpacked.

#pragma once

#include "matvec_blocks.h"
#include "row_types.h"

#if defined(__AVX512VNNI__)

enum { SIGNED_RAISED_BY = 128 };

// Copies four of sixteen factors, from `first` on, to four lanes each.
INLINE __m512i four_factors(__m512i factors, const int first) {
    const __m512i order = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_epi32(_mm512_add_epi32(order, _mm512_set1_epi32(first)), factors);
}

// Computes a superblock of one row and of n vectors, its zero point left aside. dots: [n], eight sums each.
INLINE void dots_of_row(const enum ggml_type type, const int n, const void *row, __m128i factors,
                        const struct activation_block *const *vectors, int64_t s, __m256i *dots) {
    const bool is_signed = row_types[type].is_signed;
    // Of those for dpwssd the upper halves count nothing.
    const __m512i wide =
        is_signed ? _mm512_cvtepi8_epi32(factors) : _mm512_cvtepu16_epi32(_mm256_cvtepi8_epi16(factors));
    __m512i whole[MAX_VECTORS];
#pragma GCC unroll 4
    for (int b = 0; b < SUPERBLOCK; b += 2) {
        const __m512i four = four_factors(wide, 2 * b);
        __m512i numbers = numbers_of_two_blocks(type, row, b);
        if (is_signed) {
            numbers = _mm512_xor_si512(numbers, _mm512_set1_epi8((char)0x80));
        }
        for (int i = 0; i < n; i++) {
            const int8_t *const x = superblock_of(vectors[i], s)->numbers + b * QUANT_BLOCK;
            const __m512i zero = _mm512_setzero_si512(), before = b ? whole[i] : zero;
            const __m512i dot = _mm512_dpbusd_epi32(zero, numbers, _mm512_loadu_si512(x));
            whole[i] = is_signed ? _mm512_add_epi32(before, _mm512_mullo_epi32(dot, four))
                                 : _mm512_dpwssd_epi32(before, dot, four);
        }
    }
    for (int i = 0; i < n; i++) {
        dots[i] = _mm256_add_epi32(_mm512_castsi512_si256(whole[i]), _mm512_extracti64x4_epi64(whole[i], 1));
    }
}

#else

enum { SIGNED_RAISED_BY = 0 };

// Copies a factor to all 16-bit numbers of the low half, and the next one to those of the high half. factors:
// eight, the same in both halves.
INLINE __m256i two_factors(__m256i factors, const int first) {
    const int16_t low = (int16_t)(0x0100 * (2 * first + 1) + 2 * first), high = (int16_t)(low + 0x0202);
    const __m256i order = _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low));
    return _mm256_shuffle_epi8(factors, order);
}

INLINE void dots_of_row(const enum ggml_type type, const int n, const void *row, __m128i factors,
                        const struct activation_block *const *vectors, int64_t s, __m256i *dots) {
    const __m256i first = _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(factors));
    const __m256i last = _mm256_broadcastsi128_si256(_mm_cvtepi8_epi16(_mm_srli_si128(factors, 8)));
    __m256i whole[MAX_VECTORS];
#pragma GCC unroll 8
    for (int b = 0; b < SUPERBLOCK; b++) {
        const __m256i numbers = numbers_of_block(type, row, b);
        const __m256i two = two_factors(b < 4 ? first : last, 2 * (b % 4));
        for (int i = 0; i < n; i++) {
            const __m256i x = load_bytes(superblock_of(vectors[i], s)->numbers + b * QUANT_BLOCK);
            const __m256i products =
                row_types[type].is_signed
                    ? _mm256_maddubs_epi16(_mm256_abs_epi8(numbers), _mm256_sign_epi8(x, numbers))
                    : _mm256_maddubs_epi16(numbers, x);
            const __m256i scaled = _mm256_madd_epi16(products, two);
            whole[i] = b ? _mm256_add_epi32(whole[i], scaled) : scaled;
        }
    }
    for (int i = 0; i < n; i++) {
        dots[i] = whole[i];
    }
}

#endif

enum { RUN_SUPERBLOCKS = 8 };  // that are read of a row before the next

// The whole numbers that some superblocks of eight rows come to, with one vector: eight sums of each.
struct run_of_dots {
    __m256i dots[RUN_SUPERBLOCKS][ROW_GROUP], minima[RUN_SUPERBLOCKS][ROW_GROUP];
};

// The scales of some superblocks of eight rows, as 16 bits of floats.
struct run_of_scales {
    uint16_t scales[RUN_SUPERBLOCKS][ROW_GROUP], minima[RUN_SUPERBLOCKS][ROW_GROUP];
};

// Computes superblock k of a run, which is superblock s of row r.
INLINE void begin_superblock(const enum ggml_type type, const int n, const char *from, int64_t s, int k, int r,
                             const struct activation_block *const *vectors, struct run_of_dots *runs,
                             struct run_of_scales *scales) {
    const struct row_type t = row_types[type];
    const int32_t raised = t.is_signed ? SIGNED_RAISED_BY : t.zero_point;
    const struct row_factors f = row_factors_of(type, from);
    __m256i dots[MAX_VECTORS];
    dots_of_row(type, n, from, f.factors, vectors, s, dots);
    scales->scales[k][r] = row_scale_of(type, from);
    if (t.has_minima) {
        scales->minima[k][r] = row_minimum_scale_of(type, from);
    }
    const __m256i factors = _mm256_cvtepi8_epi16(t.has_minima ? f.minima : f.factors);
    for (int i = 0; i < n; i++) {
        const __m256i by_factor = _mm256_madd_epi16(factors, load_bytes(superblock_of(vectors[i], s)->sums));
        const __m256i off = _mm256_mullo_epi32(by_factor, _mm256_set1_epi32(raised));
        runs[i].dots[k][r] = raised ? _mm256_sub_epi32(dots[i], off) : dots[i];
        if (t.has_minima) {
            runs[i].minima[k][r] = by_factor;
        }
    }
}

// Adds superblock k of a run, which is superblock s, to the results of eight rows.
INLINE __m256 finish_superblock(const bool has_minima, const struct run_of_dots *run,
                                const struct run_of_scales *scales, int k, float scale, __m256 sums) {
    const __m256 all = _mm256_set1_ps(scale);
    const __m256 of_rows = _mm256_mul_ps(load_eight_halves(scales->scales[k]), all);
    const __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(eight_sums(run->dots[k])), of_rows, sums);
    if (!has_minima) {
        return sum;
    }
    const __m256 of_minima = _mm256_mul_ps(load_eight_halves(scales->minima[k]), all);
    return _mm256_fnmadd_ps(_mm256_cvtepi32_ps(eight_sums(run->minima[k])), of_minima, sum);
}

// Multiplies n_rows rows, ROW_GROUP at most, with n vectors. vectors: [n][n_super], as pack_superblocks leaves
// them. out: [n][n_rows].
//
// Rows are read one after the other, a run of superblocks at a time: a core asks ahead for one stream better
// than for eight.
INLINE void matvec_superblocks(const enum ggml_type type, const int n, const char *from, size_t row_bytes,
                               int64_t n_rows, const struct activation_block *const *vectors, int64_t n_super,
                               float *const *out) {
    const int bytes = (int)row_types[type].bytes;
    struct run_of_dots runs[MAX_VECTORS];
    struct run_of_scales scales;
    __m256 sums[MAX_VECTORS] = {0};
    for (int64_t first = 0; first < n_super; first += RUN_SUPERBLOCKS) {
        const int n_run = n_super - first < RUN_SUPERBLOCKS ? (int)(n_super - first) : RUN_SUPERBLOCKS;
        for (int r = 0; r < ROW_GROUP; r++) {
            const int64_t own = r < n_rows ? r : n_rows - 1;  // the last one stands for those that lack
            const char *const row = from + (size_t)own * row_bytes + (size_t)(first * bytes);
            for (int k = 0; k < n_run; k++) {
                prefetch_ahead(row + k * bytes, bytes);
                begin_superblock(type, n, row + k * bytes, first + k, k, r, vectors, runs, &scales);
            }
        }
        for (int k = 0; k < n_run; k++) {
            for (int i = 0; i < n; i++) {
                const float scale = superblock_of(vectors[i], first + k)->scale;
                sums[i] = finish_superblock(row_types[type].has_minima, &runs[i], &scales, k, scale, sums[i]);
            }
        }
    }
    for (int i = 0; i < n; i++) {
        memcpy(out[i], &sums[i], (size_t)n_rows * sizeof(float));
    }
}
