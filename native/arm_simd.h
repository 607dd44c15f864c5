// Registers of integers for products of quantized numbers, in the instructions of ARM (64 bits).
//
// Knows: plain NEON, dot products and products of matrices (i8mm). Refuses to know: how weights lie, and what is
// multiplied.

#pragma once

#include "product_simd.h"

#if HAS_ARM_PRODUCTS

#include <arm_neon.h>

#include "attributes.h"

// HAS_ARM_DOT: as a Cortex-A76 has it (Raspberry Pi 5). Without: a Cortex-A72 (Pi 4).
#if defined(__ARM_FEATURE_DOTPROD)
#define HAS_ARM_DOT 1
#else
#define HAS_ARM_DOT 0
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define HAS_ARM_I8MM 1
#else
#define HAS_ARM_I8MM 0
#endif

INLINE int8x16_t low_nibbles_of(uint8x16_t x) { return vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(0x0f))); }

INLINE int8x16_t high_nibbles_of(uint8x16_t x) { return vreinterpretq_s8_u8(vshrq_n_u8(x, 4)); }

// Converts four 16-bit floats.
INLINE float32x4_t four_halves(const void *from) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)from)));
}

// The whole numbers that a block or a superblock comes to become parts of the results, four rows at once. Kernels for
// few and for many vectors do it by these alone: a vector has the same bits alone and among others
// (docs/decisions/0023). shift: bits that the numbers are too large by. scales: of the rows. scale: of the vector.
INLINE float32x4_t add_whole(float32x4_t to, int32x4_t whole, const int shift, float32x4_t scales, float scale) {
    const float32x4_t x = shift == 4 ? vcvtq_n_f32_s32(whole, 4) : vcvtq_f32_s32(whole);
    return vfmaq_f32(to, x, vmulq_n_f32(scales, scale));
}

// The same for blocks that have no superblock: rounded once they have the rows' scales, for which products with many
// vectors need an instruction less.
INLINE float32x4_t add_block_whole(float32x4_t to, int32x4_t whole, const int shift, float32x4_t scales, float scale) {
    const float32x4_t x = shift == 4 ? vcvtq_n_f32_s32(whole, 4) : vcvtq_f32_s32(whole);
    return vfmaq_n_f32(to, vmulq_f32(x, scales), scale);
}

INLINE float32x4_t subtract_whole(float32x4_t from, int32x4_t whole, float32x4_t scales, float scale) {
    return vfmsq_f32(from, vcvtq_f32_s32(whole), vmulq_n_f32(scales, scale));
}

#endif
