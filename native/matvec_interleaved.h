// Products of few vectors with interleaved rows of Q4_0, IQ4_NL, MXFP4 and Q4_K: eight in a group. Q2_K is in
// matvec_q2_k.h.
//
// Knows: the rows that are multiplied at once. Refuses to know: matrices, nodes and threads.
//
// Each row has two lanes of a register of bytes, whose sums of whole numbers are joined before they become a
// float: so the floats of a row are summed as matmul_kernel.h sums them, in the order of its blocks.

#pragma once

#include <string.h>

#include "activations.h"
#include "interleaved_types.h"
#include "matvec_stream.h"

enum {
    GROUP_REGISTERS = 2 * ROW_GROUP / INT_LANES,  // of the two lanes of each row
    SET_GROUPS = 2 / GROUP_REGISTERS,             // groups of nibble types that fill two registers
    SET_ROWS = SET_GROUPS * ROW_GROUP,
    Q4_0_FLIPPED = (int32_t)0x88888888  // bits
};

#if defined(__AVX512VNNI__)
INLINE int_lanes shuffled_bytes(int_lanes x, int_lanes order) {
    return (int_lanes)_mm512_shuffle_epi8((__m512i)x, (__m512i)order);
}
#else
INLINE int_lanes shuffled_bytes(int_lanes x, int_lanes order) {
    return (int_lanes)_mm256_shuffle_epi8((__m256i)x, (__m256i)order);
}
#endif

// The halves of eight bytes of some rows: two lanes for each row.
struct nibbles {
    int_lanes low, high;
};

// flip: the bits that are flipped in memory.
INLINE struct nibbles unpack_nibbles(const uint8_t (*bytes)[8], const int32_t flip) {
    const int_lanes flips = (int_lanes){0} + flip, half = (int_lanes){0} + 0x0f0f0f0f;
    int_lanes v;
    memcpy(&v, bytes, sizeof v);
#if defined(__AVX512VNNI__)
    const __m512i f = (__m512i)flips, h = (__m512i)half;  // (v ^ flips) & half, in one instruction
    return (struct nibbles){(int_lanes)_mm512_ternarylogic_epi32((__m512i)v, f, h, 0x28),
                            (int_lanes)_mm512_ternarylogic_epi32((__m512i)(v >> 4), f, h, 0x28)};
#else
    v ^= flips;
    return (struct nibbles){v & half, (v >> 4) & half};
#endif
}

// Returns the numbers that the lower halves of bytes stand for.
INLINE int_lanes values_of_places(const enum ggml_type type, int_lanes places) {
    const __m128i values = nibble_values(type);
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
    // Of a place it heeds six bits; the table is there four times, so two of them may be anything.
    return (int_lanes)_mm512_permutexvar_epi8((__m512i)places, _mm512_broadcast_i32x4(values));
#elif defined(__AVX512VNNI__)
    return shuffled_bytes((int_lanes)_mm512_broadcast_i32x4(values), places & 0x0f0f0f0f);
#else
    return shuffled_bytes((int_lanes)_mm256_broadcastsi128_si256(values), places & 0x0f0f0f0f);
#endif
}

// Returns the numbers in the halves of eight bytes of some rows.
INLINE struct nibbles unpack_numbers(const enum ggml_type type, const uint8_t (*bytes)[8]) {
    if (type == GGML_TYPE_Q4_0) {
        return unpack_nibbles(bytes, Q4_0_FLIPPED);
    }
    int_lanes v;
    memcpy(&v, bytes, sizeof v);
    return (struct nibbles){values_of_places(type, v), values_of_places(type, v >> 4)};
}

// Returns the same eight bytes for every row.
INLINE int_lanes eight_bytes(const void *from) {
    typedef int64_t longs __attribute__((vector_size(sizeof(int_lanes))));
    int64_t x;
    memcpy(&x, from, sizeof x);
    return (int_lanes)((longs){0} + x);
}

INLINE int_lanes eight_activations(const struct activation_block *v, int first) {
    return eight_bytes(v->numbers + first);
}

INLINE int_lanes corrections_of(const struct activation_block *v) { return eight_bytes(v->corrections); }

// ---------------------------------------------------------------- Q4_0, IQ4_NL, MXFP4

// Rows that are multiplied at once: one group, or two if a register holds one. Their lanes, joined, are in
// another order: two rows of the first register, two of the second, and so on.

// Adds the two lanes of each row of two registers.
INLINE int_lanes joined_lanes(int_lanes first, int_lanes second) {
#if defined(__AVX512VNNI__)
    const __m512 a = (__m512)first, b = (__m512)second;
    return (int_lanes)_mm512_shuffle_ps(a, b, 0x88) + (int_lanes)_mm512_shuffle_ps(a, b, 0xdd);
#else
    return (int_lanes)_mm256_hadd_epi32((__m256i)first, (__m256i)second);
#endif
}

// Returns the scales of a set's rows, in the order of joined lanes.
INLINE product_lanes joined_scales(const enum ggml_type type, const char *const groups[SET_GROUPS]) {
#if defined(__AVX512VNNI__)
    const product_lanes x = (product_lanes)nibble_scales_of_two(type, groups[0], groups[1]);
    return __builtin_shufflevector(x, x, 0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
#else
    const product_lanes x = (product_lanes)nibble_scales_of(type, groups[0]);
    return __builtin_shufflevector(x, x, 0, 1, 4, 5, 2, 3, 6, 7);
#endif
}

// Stores the first n_rows of a set's joined lanes.
INLINE void store_set(float *out, product_lanes x, int64_t n_rows) {
#if defined(__AVX512VNNI__)
    const product_lanes rows =
        __builtin_shufflevector(x, x, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
#else
    const product_lanes rows = __builtin_shufflevector(x, x, 0, 1, 4, 5, 2, 3, 6, 7);
#endif
    memcpy(out, &rows, (size_t)(n_rows < SET_ROWS ? ROW_GROUP : SET_ROWS) * sizeof(float));
}

INLINE int_lanes add_nibble_dot(const enum ggml_type type, int_lanes sum, int_lanes numbers, int_lanes x) {
    return are_nibbles_signed(type) ? add_signed_dot(sum, abs_of_bytes(numbers), numbers, x) : add_dot(sum, numbers, x);
}

// Returns the products of a block's numbers with a vector, in joined lanes. rows: of bytes [0] and [1], each of
// both registers.
INLINE int_lanes dot_of_set(const enum ggml_type type, const struct nibbles rows[2][2],
                            const struct activation_block *v) {
    const bool in_16_bits = !HAS_VNNI && !are_nibbles_signed(type);
    int_lanes sums[2];
    for (int r = 0; r < 2; r++) {
        int_lanes sum = in_16_bits ? (int_lanes){0} : corrections_of(v);
        sum = add_nibble_dot(type, sum, rows[0][r].low, eight_activations(v, 0));
        sum = add_nibble_dot(type, sum, rows[1][r].low, eight_activations(v, 8));
        sum = add_nibble_dot(type, sum, rows[0][r].high, eight_activations(v, 16));
        sum = add_nibble_dot(type, sum, rows[1][r].high, eight_activations(v, 24));
        sums[r] = in_16_bits ? widened_dot(sum) + corrections_of(v) : sum;
    }
    return joined_lanes(sums[0], sums[1]);
}

// Multiplies n_rows rows with n vectors: SET_ROWS, or one group if there are no more. vectors: [n][n_blocks].
// out: [n][n_rows].
INLINE void matvec_nibbles(const enum ggml_type type, const int n, const char *from, int64_t n_rows,
                           const struct activation_block *const *vectors, int64_t n_blocks, float *const *out) {
    const int bytes = (int)nibble_group_bytes(type);
    const int64_t next = n_rows < SET_ROWS ? 0 : n_blocks * bytes;  // the last group may stand for both
    product_lanes sums[MAX_VECTORS] = {0};
    for (int64_t b = 0; b < n_blocks; b++, from += bytes) {
        const char *const groups[2] = {from, from + next};
        struct nibbles parts[2][2];
        for (int g = 0; g < SET_GROUPS; g++) {
            const int64_t jump = past_end(b, n_blocks, bytes, SET_GROUPS) ? (SET_GROUPS - 1) * next : 0;
            prefetch_at_distance(groups[g] + jump, bytes, PREFETCH_AHEAD / SET_GROUPS);
        }
        for (int k = 0; k < 2; k++) {
            for (int r = 0; r < 2; r++) {
                const uint8_t(*const eight)[8] = nibble_bytes_of(type, groups[r % SET_GROUPS])[k];
                parts[k][r] = unpack_numbers(type, eight + r / SET_GROUPS * ROW_GROUP / 2);
            }
        }
        const product_lanes scales = joined_scales(type, groups);
        for (int i = 0; i < n; i++) {
            const struct activation_block *const v = &vectors[i][b];
            const int_lanes whole = dot_of_set(type, parts, v);
            sums[i] = fused(__builtin_convertvector(whole, product_lanes), scales * v->scale, sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        store_set(out[i], sums[i], n_rows);
    }
}

// ---------------------------------------------------------------- Q4_K

// Spreads a number below 256 of each row, to be factors of add_scaled_dot. all: in each 16 bytes the same; row r's
// is byte stride * r + first of them.
INLINE void spread_bytes_to_rows(int_lanes all, const int stride, const int first, int_lanes out[GROUP_REGISTERS]) {
    typedef int8_t bytes __attribute__((vector_size(sizeof(int_lanes))));
    bytes order = {0};  // where each byte comes from: a factor in each lane, or in each half; -1: 0
    for (int r = 0; r < GROUP_REGISTERS; r++) {
        for (int i = 0; i < INT_LANES * 4; i++) {
            const int row = r * ROW_GROUP / GROUP_REGISTERS + i / 8;
            order[i] = i % (HAS_VNNI ? 4 : 2) ? -1 : (int8_t)(stride * row + first);
        }
        out[r] = shuffled_bytes(all, (int_lanes)order);
    }
}

// Adds the two lanes of each row of a group.
INLINE __m256i sums_of_rows(const int_lanes lanes[GROUP_REGISTERS]) {
#if defined(__AVX512VNNI__)
    const __m512i x = (__m512i)lanes[0];
    return _mm512_cvtepi64_epi32(_mm512_add_epi32(x, _mm512_srli_epi64(x, 32)));
#else
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32((__m256i)lanes[0], (__m256i)lanes[1]), 0xd8);
#endif
}

// Multiplies a group of n_super superblocks of Q4_K with n vectors. vectors: [n][n_super * SUPERBLOCK]. out:
// [n][ROW_GROUP].
INLINE void matvec_q4_k(const int n, const struct q4_k_group *rows,
                        const struct activation_block *const *vectors, int64_t n_super, float *const *out) {
    __m256 sums[MAX_VECTORS] = {0};
    for (int64_t s = 0; s < n_super; s++, rows++) {
        const struct q4_k_factors factors = q4_k_factors_of(rows);
        int_lanes whole[MAX_VECTORS][GROUP_REGISTERS] = {0};
        __m256 whole_minima[MAX_VECTORS] = {0};
        for (int b = 0; b < SUPERBLOCK; b += 2) {
            prefetch_ahead(rows->bytes[b / 2], sizeof rows->bytes[b / 2]);
            struct nibbles parts[4][GROUP_REGISTERS];
            for (int k = 0; k < 4; k++) {
                for (int r = 0; r < GROUP_REGISTERS; r++) {
                    parts[k][r] =
                        unpack_nibbles(rows->bytes[b / 2][k] + r * ROW_GROUP / GROUP_REGISTERS, 0);
                }
            }
            for (int half = 0; half < 2; half++) {
                const __m256 minima = floats_of_eight_bytes(factors.minima[b + half]);
                int_lanes scales[GROUP_REGISTERS];
                spread_bytes_to_rows(eight_bytes(factors.scales[b + half]), 1, 0, scales);
                for (int i = 0; i < n; i++) {
                    const struct activation_block *const v = &vectors[i][s * SUPERBLOCK + b + half];
                    for (int r = 0; r < GROUP_REGISTERS; r++) {
                        int_lanes sum = {0};
                        for (int k = 0; k < 4; k++) {
                            sum = add_dot(sum, half ? parts[k][r].high : parts[k][r].low,
                                          eight_activations(v, 8 * k));
                        }
                        whole[i][r] = add_scaled_dot(whole[i][r], sum, scales[r]);
                    }
                    whole_minima[i] = _mm256_fmadd_ps(minima, _mm256_set1_ps(v->sum), whole_minima[i]);
                }
            }
        }
        const __m256 scales = load_eight_halves(rows->scales), minima = load_eight_halves(rows->minima);
        for (int i = 0; i < n; i++) {
            const __m256 scale = _mm256_set1_ps(vectors[i][s * SUPERBLOCK].scale);
            const __m256 x = _mm256_cvtepi32_ps(sums_of_rows(whole[i]));
            sums[i] = _mm256_fmadd_ps(x, _mm256_mul_ps(scales, scale), sums[i]);
            sums[i] = _mm256_fnmadd_ps(minima, whole_minima[i], sums[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        _mm256_storeu_ps(out[i], sums[i]);
    }
}
