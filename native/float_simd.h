// Registers of float32, in the instructions of this processor, and how 16-bit floats get there.

#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "attributes.h"

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// TILE_ROWS: query rows that share what is read, as many as fit the registers.
#if defined(__AVX512F__)
enum { FLOAT_LANES = 16, TILE_ROWS = 4 };
#elif defined(__F16C__)
enum { FLOAT_LANES = 8, TILE_ROWS = 2 };
#else
enum { FLOAT_LANES = 4, TILE_ROWS = 4 };
#endif

typedef float float_lanes __attribute__((vector_size(FLOAT_LANES * sizeof(float))));
typedef float float_lanes_unaligned
    __attribute__((vector_size(FLOAT_LANES * sizeof(float)), aligned(4), may_alias));
typedef float four_floats __attribute__((vector_size(16)));
typedef float four_floats_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

INLINE float_lanes load_floats(const float *x) { return *(const float_lanes_unaligned *)x; }

INLINE void store_floats(float *x, float_lanes v) { *(float_lanes_unaligned *)x = v; }

INLINE float_lanes load_halves(const uint16_t *x) {
#if defined(__AVX512F__)
    return (float_lanes)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
#elif defined(__F16C__)
    return (float_lanes)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
#elif defined(__aarch64__)
    return (float_lanes)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
#else
    (void)x;
    return (float_lanes){0};  // never called, see converts_halves
#endif
}

INLINE float_lanes load_bfloats(const uint16_t *x) {
    typedef uint16_t short_lanes
        __attribute__((vector_size(FLOAT_LANES * sizeof(uint16_t)), aligned(2), may_alias));
    typedef uint32_t long_lanes __attribute__((vector_size(FLOAT_LANES * sizeof(uint32_t))));
    return (float_lanes)(__builtin_convertvector(*(const short_lanes *)x, long_lanes) << 16);
}

// Returns a * b + c. It is fused explicitly: a compiler that fuses one loop and not another would give a vector
// other bits alone than among others.
INLINE float_lanes fused_lanes(float_lanes a, float_lanes b, float_lanes c) {
#if defined(__AVX512F__)
    return (float_lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__F16C__) && defined(__FMA__)
    return (float_lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (float_lanes)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

// Tells whether this processor converts 16-bit floats.
static inline bool converts_halves(void) {
#if defined(__F16C__) || defined(__aarch64__)
    return true;
#else
    return false;
#endif
}

// Adds the lanes whose numbers are the same modulo four.
INLINE four_floats folded(float_lanes v) {
#if defined(__AVX512F__)
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7) +
           (__builtin_shufflevector(v, v, 8, 9, 10, 11) + __builtin_shufflevector(v, v, 12, 13, 14, 15));
#elif defined(__F16C__)
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    return (four_floats)v;
#endif
}

// Returns the sums of the lanes of four registers.
INLINE four_floats four_sums(const float_lanes v[4]) {
    const four_floats a = folded(v[0]), b = folded(v[1]), c = folded(v[2]), d = folded(v[3]);
    const four_floats ab =
        __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const four_floats cd =
        __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}
