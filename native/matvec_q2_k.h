// Products of few vectors with interleaved rows of Q2_K.
//
// Knows: the rows that are multiplied at once. Refuses to know: matrices, nodes and threads.
//
// Two of the four numbers in a byte are masked where they are, so they count four times; that is taken off the
// sums, once a superblock.

#pragma once

#include <stddef.h>

#include "matvec_interleaved.h"

// Sums of whole numbers of a group, in two lanes of each row. [1]: of numbers that count four times.
struct q2_k_sums {
    int_lanes parts[2][GROUP_REGISTERS];
};

// The same sixteen bytes in all of a register.
INLINE int_lanes sixteen_bytes(const void *from) {
    const __m128i x = _mm_loadu_si128((const __m128i *)from);
#if defined(__AVX512VNNI__)
    return (int_lanes)_mm512_broadcast_i32x4(x);
#else
    return (int_lanes)_mm256_broadcastsi128_si256(x);
#endif
}

// Returns numbers of eight rows, two of each block for each row, of as many blocks as fit: the minima of a group's
// blocks from `b` on.
INLINE int_lanes q2_k_minima_of(const struct q2_k_group *from, const int b) {
#if defined(__AVX512VNNI__)
    return (int_lanes)_mm512_srli_epi16(_mm512_cvtepu8_epi16(load_bytes(from->factors[b])), 4);
#else
    const __m128i bytes = _mm_loadu_si128((const __m128i *)from->factors[b]);
    return (int_lanes)_mm256_srli_epi16(_mm256_cvtepu8_epi16(bytes), 4);
#endif
}

// Returns the sums of a vector that these minima are multiplied with.
INLINE int_lanes q2_k_sums_of(const struct activation_superblock *v, const int b) {
    const int16_t *const from = v->sums + 2 * b;
#if defined(__AVX512VNNI__)
    const __m512i order = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    return (int_lanes)_mm512_permutexvar_epi32(order, _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)from)));
#else
    int32_t pair;
    memcpy(&pair, from, sizeof pair);
    return (int_lanes){0} + pair;
#endif
}

INLINE __m256 q2_k_minima_sums(int_lanes x) {
#if defined(__AVX512VNNI__)
    const __m256i last = _mm512_extracti64x4_epi64((__m512i)x, 1);
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm512_castsi512_si256((__m512i)x), last));
#else
    return _mm256_cvtepi32_ps((__m256i)x);
#endif
}

// Multiplies sixteen numbers of each of four blocks, h and half say which, with n vectors.
INLINE void add_q2_k_numbers(const int n, const struct q2_k_group *from, const int h, const int half,
                             const struct activation_block *const *vectors, int64_t s, struct q2_k_sums *sums) {
    int_lanes bytes[2][GROUP_REGISTERS];
    for (int k = 0; k < 2; k++) {
        for (int r = 0; r < GROUP_REGISTERS; r++) {
            memcpy(&bytes[k][r], from->bytes[h][2 * half + k][r * ROW_GROUP / GROUP_REGISTERS], sizeof bytes[k][r]);
        }
    }
#pragma GCC unroll 4
    for (int part = 0; part < 4; part++) {
        const int b = 4 * h + part, first = b * QUANT_BLOCK + half * QUANT_BLOCK / 2;
        const int_lanes mask = (int_lanes){0} + (part % 2 ? 0x0c0c0c0c : 0x03030303);
        int_lanes factors[GROUP_REGISTERS];
        spread_bytes_to_rows(sixteen_bytes(from->factors[b]) & 0x0f0f0f0f, 2, half, factors);
        for (int r = 0; r < GROUP_REGISTERS; r++) {
            const int_lanes low = (part / 2 ? bytes[0][r] >> 4 : bytes[0][r]) & mask;
            const int_lanes high = (part / 2 ? bytes[1][r] >> 4 : bytes[1][r]) & mask;
            for (int i = 0; i < n; i++) {
                const int8_t *const x = superblock_of(vectors[i], s)->numbers + first;
                const int_lanes dot = add_dot(add_dot((int_lanes){0}, low, eight_bytes(x)), high, eight_bytes(x + 8));
                int_lanes *const to = &sums[i].parts[part % 2][r];
                *to = add_scaled_dot(*to, dot, factors[r]);
            }
        }
    }
}

// Multiplies a group of n_super superblocks with n vectors. vectors: [n][n_super], as pack_superblocks leaves them.
// out: [n][ROW_GROUP].
INLINE void matvec_q2_k(const int n, const struct q2_k_group *rows, const struct activation_block *const *vectors,
                        int64_t n_super, float *const *out) {
    __m256 sums[MAX_VECTORS] = {0};
    for (int64_t s = 0; s < n_super; s++, rows++) {
        struct q2_k_sums whole[MAX_VECTORS] = {0};
        int_lanes minima[MAX_VECTORS] = {0};
        prefetch_ahead(rows, offsetof(struct q2_k_group, bytes));
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            prefetch_ahead(rows->bytes[k / 2][2 * (k % 2)], 2 * sizeof rows->bytes[0][0]);
            add_q2_k_numbers(n, rows, k / 2, k % 2, vectors, s, whole);
        }
        for (int b = 0; b < SUPERBLOCK; b += INT_LANES / ROW_GROUP) {
            const int_lanes x = q2_k_minima_of(rows, b);
            for (int i = 0; i < n; i++) {
                minima[i] = add_scaled_dot(minima[i], q2_k_sums_of(superblock_of(vectors[i], s), b), x);
            }
        }
        const __m256 scales = load_eight_halves(rows->scales), of_minima = load_eight_halves(rows->minimum_scales);
        for (int i = 0; i < n; i++) {
            const __m256 scale = _mm256_set1_ps(superblock_of(vectors[i], s)->scale);
            int_lanes joined[GROUP_REGISTERS];
            for (int r = 0; r < GROUP_REGISTERS; r++) {
                joined[r] = whole[i].parts[0][r] + (whole[i].parts[1][r] >> 2);
            }
            const __m256 x = _mm256_cvtepi32_ps(sums_of_rows(joined));
            sums[i] = _mm256_fmadd_ps(x, _mm256_mul_ps(scales, scale), sums[i]);
            sums[i] = _mm256_fnmadd_ps(q2_k_minima_sums(minima[i]), _mm256_mul_ps(of_minima, scale), sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        _mm256_storeu_ps(out[i], sums[i]);
    }
}
