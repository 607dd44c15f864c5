// Registers of float32 and of 32-bit words, with what AdamW needs and float_simd.h has not.

#pragma once

#include <stdint.h>

#include "attributes.h"
#include "float_simd.h"
#include "numbers.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

typedef uint32_t word_lanes __attribute__((vector_size(FLOAT_LANES * sizeof(uint32_t))));
typedef int32_t int_lanes __attribute__((vector_size(FLOAT_LANES * sizeof(int32_t))));
typedef uint16_t short_lanes
    __attribute__((vector_size(FLOAT_LANES * sizeof(uint16_t)), aligned(1), may_alias));
typedef uint8_t byte_lanes __attribute__((vector_size(FLOAT_LANES), aligned(1), may_alias));
typedef int8_t signed_byte_lanes __attribute__((vector_size(FLOAT_LANES), aligned(1), may_alias));

// Before loops over the registers of a block. Unrolled where all of them fit into the processor's.
#if defined(__AVX2__)
#define EACH_REGISTER _Pragma("GCC unroll 8")
#else
#define EACH_REGISTER
#endif

INLINE float_lanes all_lanes(float x) { return (float_lanes){0} + x; }

INLINE word_lanes load_signed_bytes(const int8_t *x) {
#if defined(__AVX512F__)
    return (word_lanes)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)x));
#elif defined(__AVX2__)
    return (word_lanes)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)x));
#else
    return (word_lanes)__builtin_convertvector(*(const signed_byte_lanes *)x, int_lanes);
#endif
}

INLINE word_lanes load_shorts(const uint16_t *x) {
#if defined(__AVX512F__)
    return (word_lanes)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
#elif defined(__AVX2__)
    return (word_lanes)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
#else
    return __builtin_convertvector(*(const short_lanes *)x, word_lanes);
#endif
}

INLINE word_lanes load_words(const void *x) {
    typedef uint32_t word_lanes_unaligned
        __attribute__((vector_size(FLOAT_LANES * sizeof(uint32_t)), aligned(1), may_alias));
    return *(const word_lanes_unaligned *)x;
}

INLINE void store_words(void *x, word_lanes v) {
    typedef uint32_t word_lanes_unaligned
        __attribute__((vector_size(FLOAT_LANES * sizeof(uint32_t)), aligned(1), may_alias));
    *(word_lanes_unaligned *)x = v;
}

// Returns the bits of `a` where `mask` has ones, else those of `b`.
INLINE word_lanes chosen_bits(uint32_t mask, word_lanes a, word_lanes b) {
#if defined(__AVX512F__)
    return (word_lanes)_mm512_ternarylogic_epi32(_mm512_set1_epi32((int)mask), (__m512i)a, (__m512i)b, 0xCA);
#else
    return b ^ ((a ^ b) & mask);
#endif
}

// Writes the low bytes of the lanes.
INLINE void store_bytes(uint8_t *x, word_lanes v) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)x, _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
    v &= 0xFF;  // the next instructions saturate
    const __m128i low = _mm256_castsi256_si128((__m256i)v), high = _mm256_extracti128_si256((__m256i)v, 1);
    const __m128i shorts = _mm_packus_epi32(low, high);
    _mm_storel_epi64((__m128i *)x, _mm_packus_epi16(shorts, shorts));
#else
    *(byte_lanes *)x = __builtin_convertvector(v, byte_lanes);
#endif
}

// Writes the low halves of the lanes.
INLINE void store_shorts(uint16_t *x, word_lanes v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)x, _mm512_cvtepi32_epi16((__m512i)v));
#elif defined(__AVX2__)
    v &= 0xFFFF;
    const __m128i low = _mm256_castsi256_si128((__m256i)v), high = _mm256_extracti128_si256((__m256i)v, 1);
    _mm_storeu_si128((__m128i *)x, _mm_packus_epi32(low, high));
#else
    *(short_lanes *)x = __builtin_convertvector(v, short_lanes);
#endif
}

INLINE word_lanes larger_words(word_lanes a, word_lanes b) {
#if defined(__AVX512F__)
    return (word_lanes)_mm512_max_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (word_lanes)_mm256_max_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE4_1__)
    return (word_lanes)_mm_max_epu32((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
    return (word_lanes)vmaxq_u32((uint32x4_t)a, (uint32x4_t)b);
#else
    return a > b ? a : b;
#endif
}

// Whether any lane is not zero.
INLINE bool any_lane(word_lanes v) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)v, (__m512i)v) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)v, (__m256i)v);
#else
    uint32_t any = 0;
    for (int i = 0; i < FLOAT_LANES; i++) {
        any |= v[i];
    }
    return any != 0;
#endif
}

INLINE float_lanes exact_root(float_lanes v) {
#if defined(__AVX512F__)
    return (float_lanes)_mm512_sqrt_ps((__m512)v);
#elif defined(__F16C__)
    return (float_lanes)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
    return (float_lanes)_mm_sqrt_ps((__m128)v);
#elif defined(__aarch64__)
    return (float_lanes)vsqrtq_f32((float32x4_t)v);
#else
    for (int i = 0; i < FLOAT_LANES; i++) {
        v[i] = sqrtf(v[i]);
    }
    return v;
#endif
}

// The root to three digits or more, of what is above 1e-38.
INLINE float_lanes quick_root(float_lanes v) {
#if defined(__AVX512F__)
    return v * (float_lanes)_mm512_rsqrt14_ps((__m512)v);
#elif defined(__F16C__)
    return v * (float_lanes)_mm256_rsqrt_ps((__m256)v);
#elif defined(__aarch64__)
    const float32x4_t x = (float32x4_t)v, y = vrsqrteq_f32(x);
    return v * (float_lanes)vmulq_f32(y, vrsqrtsq_f32(vmulq_f32(x, y), y));
#else
    return exact_root(v);
#endif
}

// The inverse to three digits or more, of what is above zero.
INLINE float_lanes quick_inverse(float_lanes v) {
#if defined(__AVX512F__)
    return (float_lanes)_mm512_rcp14_ps((__m512)v);
#elif defined(__F16C__)
    return (float_lanes)_mm256_rcp_ps((__m256)v);
#elif defined(__aarch64__)
    const float32x4_t y = vrecpeq_f32((float32x4_t)v);
    return (float_lanes)vmulq_f32(y, vrecpsq_f32((float32x4_t)v, y));
#else
    return 1.0f / v;
#endif
}

INLINE word_lanes lane_numbers(void) {
    word_lanes v = {0};
    for (int i = 0; i < FLOAT_LANES; i++) {
        v[i] = (uint32_t)i;
    }
    return v;
}
