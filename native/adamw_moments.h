// What AdamW does to the moments of one register of values, whatever they are kept as.

#pragma once

#include "adamw.h"
#include "adamw_simd.h"

// What is yet to be done with a block.
enum left { NOTHING, WEIGHTS, MOMENTS, BOTH };

static const float MOST_EARLY = 0.25f;  // of the second moment may come from the gradient of an early block

// Returns lanes that are not zero where a gradient is too large, or not finite, to move moments before its
// scale is known.
INLINE word_lanes too_large_early(float_lanes g, float_lanes second, const struct adamw_step *s) {
    return ~(word_lanes)(g * g * s->rest2 <= second * (s->beta2 * MOST_EARLY));
}

INLINE void move_moments(float_lanes *first, float_lanes *second, float_lanes g, const struct adamw_step *s) {
    *first = fused_lanes(g - *first, all_lanes(s->rest1), *first);
    *second = fused_lanes(g * g, all_lanes(s->rest2), *second * s->beta2);
}

INLINE float_lanes not_below_zero(float_lanes v) { return (float_lanes)((word_lanes)v & (word_lanes)(v > 0)); }

// Adds to moments that have moved with g what makes it c g.
INLINE void correct_moments(float_lanes *first, float_lanes *second, float_lanes g, const struct adamw_step *s) {
    *first = fused_lanes(g, all_lanes((s->scale - 1) * s->rest1), *first);
    *second = not_below_zero(fused_lanes(g * g, all_lanes((s->scale * s->scale - 1) * s->rest2), *second));
}

INLINE void undo_moments(float_lanes *first, float_lanes *second, float_lanes g, const struct adamw_step *s) {
    const float inverse1 = s->beta1 > 0 ? 1 / s->beta1 : 0, inverse2 = s->beta2 > 0 ? 1 / s->beta2 : 0;
    *first = fused_lanes(g, all_lanes(-s->rest1), *first) * inverse1;
    *second = not_below_zero(fused_lanes(g * g, all_lanes(-s->rest2), *second) * inverse2);
}

// Returns 32 bits for each lane, of which the first value has this place in its tensor.
INLINE word_lanes random_lanes(const struct adamw_tensor *t, size_t place) {
    word_lanes x = lane_numbers() * 0x9E3779B1u + ((uint32_t)place * 0x9E3779B1u + t->seed);
    x ^= x >> 15;
    return x * 0x85EBCA6Bu + t->turn * 0x9E379E37u;
}

// What a block's random bits differ by between the two times that it is rounded in a step.
INLINE uint32_t second_turn(bool has_moved) { return has_moved ? 0x80808080u : 0; }

// Whether second moments of which these are the largest are finite. They are not if a gradient is not.
INLINE bool is_finite(word_lanes largest) { return !any_lane((word_lanes)(largest >= 0x7F800000u)); }

INLINE bool is_bf16(int format) { return format >= ADAMW_BF16_F32; }

INLINE bool has_8bit_moments(int format) { return format == ADAMW_F32_8BIT || format == ADAMW_BF16_8BIT; }

INLINE bool has_f32_moments(int format) { return format == ADAMW_F32_F32 || format == ADAMW_BF16_F32; }
