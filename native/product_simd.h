// Registers of integers for products of quantized numbers, in the instructions of this processor.
//
// Knows: AVX2, AVX-VNNI and AVX-512 VNNI; those of ARM are in arm_simd.h. Refuses to know: how weights lie, and what is
// multiplied.
//
// HAS_PRODUCTS: the kernels of x86 are there. HAS_ARM_PRODUCTS: those of ARM, whose files are named arm_*.
// HAS_OWN_PRODUCTS: either; for what is the same on both.

#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define HAS_PRODUCTS 1

#include <immintrin.h>
#include <stdint.h>

#include "attributes.h"

#if defined(__AVX512VNNI__)
#define HAS_VNNI 1
enum { INT_LANES = 16 };
#else
enum { INT_LANES = 8 };
#if defined(__AVXVNNI__)
#define HAS_VNNI 1
#else
#define HAS_VNNI 0
#endif
#endif

typedef int32_t int_lanes __attribute__((vector_size(INT_LANES * 4)));
typedef int32_t int_lanes_unaligned __attribute__((vector_size(INT_LANES * 4), aligned(4), may_alias));
typedef float product_lanes __attribute__((vector_size(INT_LANES * 4)));
typedef float product_lanes_unaligned __attribute__((vector_size(INT_LANES * 4), aligned(4), may_alias));

// ---------------------------------------------------------------- loading

INLINE __m256i load_bytes(const void *from) { return _mm256_loadu_si256(from); }

INLINE __m256i low_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(0x0f)); }

INLINE __m256i high_nibbles(__m256i v) { return low_nibbles(_mm256_srli_epi16(v, 4)); }

// Converts eight 16-bit floats.
INLINE __m256 load_eight_halves(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

INLINE __m256 floats_of_eight_bytes(const uint8_t *from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}

// ---------------------------------------------------------------- sums

// Sums of floats are fused explicitly: a compiler that fuses one loop and not another would give a vector other
// bits alone than among others.

// Returns a * b + c, rounded once.
INLINE product_lanes fused(product_lanes a, product_lanes b, product_lanes c) {
#if defined(__AVX512VNNI__)
    return (product_lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return (product_lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
}

// Returns c - a * b, rounded once.
INLINE product_lanes fused_minus(product_lanes a, product_lanes b, product_lanes c) { return fused(-a, b, c); }

// ---------------------------------------------------------------- dot products

// Dot products are summed up in `dot` registers: one sum of 32 bits in each lane with VNNI, else two of 16
// bits, which must not overflow.

#if HAS_VNNI

// Adds to each lane the products of four bytes of weights (0 to 255) and of four bytes of activations.
INLINE int_lanes add_dot(int_lanes dot, int_lanes weights, int_lanes activations) {
#if defined(__AVX512VNNI__)
    return (int_lanes)_mm512_dpbusd_epi32((__m512i)dot, (__m512i)weights, (__m512i)activations);
#else
    return (int_lanes)_mm256_dpbusd_avx_epi32((__m256i)dot, (__m256i)weights, (__m256i)activations);
#endif
}

// Returns the sum of each lane in 32 bits.
INLINE int_lanes widened_dot(int_lanes dot) { return dot; }

// Weights never have signs here, see add_signed_dot below.
INLINE int_lanes add_signed_dot(int_lanes sum, int_lanes absolute, int_lanes signs, int_lanes activations) {
    (void)signs;
    return add_dot(sum, absolute, activations);
}

INLINE int_lanes abs_of_bytes(int_lanes x) { return x; }

// Adds dots that fit 16 bits, times factors below 256: one in the lower 16 bits of each lane.
INLINE int_lanes add_scaled_dot(int_lanes to, int_lanes dot, int_lanes factors) {
#if defined(__AVX512VNNI__)
    return (int_lanes)_mm512_dpwssd_epi32((__m512i)to, (__m512i)dot, (__m512i)factors);
#else
    return (int_lanes)_mm256_dpwssd_avx_epi32((__m256i)to, (__m256i)dot, (__m256i)factors);
#endif
}

#else

INLINE int_lanes add_dot(int_lanes dot, int_lanes weights, int_lanes activations) {
    const __m256i products = _mm256_maddubs_epi16((__m256i)weights, (__m256i)activations);
    return (int_lanes)_mm256_add_epi16((__m256i)dot, products);
}

INLINE int_lanes widened_dot(int_lanes dot) {
    return (int_lanes)_mm256_madd_epi16((__m256i)dot, _mm256_set1_epi16(1));
}

// factors: one in each 16 bits.
INLINE int_lanes add_scaled_dot(int_lanes to, int_lanes dot, int_lanes factors) {
    return to + (int_lanes)_mm256_madd_epi16((__m256i)dot, (__m256i)factors);
}

// Adds the products of four bytes of weights with signs, none of them -128. absolute: the weights without signs.
INLINE int_lanes add_signed_dot(int_lanes sum, int_lanes absolute, int_lanes signs, int_lanes activations) {
    const __m256i turned = _mm256_sign_epi8((__m256i)activations, (__m256i)signs);
    return sum + widened_dot((int_lanes)_mm256_maddubs_epi16((__m256i)absolute, turned));
}

INLINE int_lanes abs_of_bytes(int_lanes x) { return (int_lanes)_mm256_abs_epi8((__m256i)x); }

#endif

#else
#define HAS_PRODUCTS 0
#endif

#if defined(__aarch64__) && defined(__ARM_NEON)
#define HAS_ARM_PRODUCTS 1
#else
#define HAS_ARM_PRODUCTS 0
#endif
#define HAS_OWN_PRODUCTS (HAS_PRODUCTS || HAS_ARM_PRODUCTS)
