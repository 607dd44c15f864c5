// How weights and moments of one block are read from memory and written back, if moments have 16 or 32 bits.
//
// Bits that do not fit are rounded at random, so that small changes add up: with beta2 = 0.999 a second
// moment moves by a thousandth a step, which rounding to nearest would drop every time. "At random" is a
// sequence of the golden ratio over the steps, begun somewhere else for every value: as even as can be over
// a few steps, and the same for the same seed, step and place.

#pragma once

#include "adamw_moments.h"

enum { VECTORS = ADAMW_BLOCK / FLOAT_LANES };

// first: after moments are written, the directions of the step.
struct block {
    float_lanes first[VECTORS], second[VECTORS];
    word_lanes random;
};

// Returns the random bits of register j. Those of a block's registers are spread evenly: what one value gains by
// rounding another loses.
INLINE word_lanes random_of(const struct block *b, int j) {
    return b->random + 0x01010101u * (uint32_t)(256 / VECTORS * j);
}

INLINE float_lanes load_gradient(const struct adamw_tensor *t, int format, size_t i) {
    return is_bf16(format) ? (float_lanes)(load_shorts((const uint16_t *)t->gradient + i) << 16)
                           : load_floats((const float *)t->gradient + i);
}

INLINE float_lanes load_weights(const struct adamw_tensor *t, int format, size_t i) {
    if (!is_bf16(format)) {
        return load_floats((const float *)t->weights + i);
    }
    const word_lanes upper = load_shorts((const uint16_t *)t->weights + i) << 16;
    if (format == ADAMW_BF16_F32) {
        const word_lanes lower = load_shorts((const uint16_t *)t->rest + i);
        return (float_lanes)(upper + (word_lanes)((int_lanes)(lower << 16) >> 16));
    }
    return (float_lanes)(upper + (load_signed_bytes((const int8_t *)t->rest + i) << 8));
}

INLINE void store_weights(const struct adamw_tensor *t, int format, size_t i, float_lanes v, word_lanes random) {
    if (!is_bf16(format)) {
        store_floats((float *)t->weights + i, v);
        return;
    }
    const word_lanes lost = format == ADAMW_BF16_F32 ? (word_lanes){0} : random & 0xFF;
    const word_lanes bits = (word_lanes)v + lost, upper = (bits + 0x8000u) >> 16;
    store_shorts((uint16_t *)t->weights + i, upper);
    if (format == ADAMW_BF16_F32) {
        store_shorts((uint16_t *)t->rest + i, bits);
    } else {
        store_bytes((uint8_t *)t->rest + i, bits >> 8);
    }
}

// Puts the direction of the step in the place of a register's first moment: that over the root of the second,
// which is corrected for its beginning at zero.
INLINE void turn_to_direction(struct block *b, const struct adamw_step *s, int format, int j) {
    const float_lanes root =
        has_f32_moments(format) ? exact_root(b->second[j]) : quick_root(b->second[j] + 1e-37f);
    const float_lanes d = fused_lanes(root, all_lanes(s->root_scale), all_lanes(s->eps));
    b->first[j] = has_f32_moments(format) ? b->first[j] / d : b->first[j] * quick_inverse(d);
}

INLINE void turn_to_directions(struct block *b, const struct adamw_step *s, int format) {
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        turn_to_direction(b, s, format, j);
    }
}

INLINE void load_moments(struct block *b, const struct adamw_tensor *t, int format, size_t i) {
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const size_t at = i + (size_t)(j * FLOAT_LANES);
        if (has_f32_moments(format)) {
            b->first[j] = load_floats((const float *)t->first + at);
            b->second[j] = load_floats((const float *)t->second + at);
        } else {
            b->first[j] = (float_lanes)(load_shorts((const uint16_t *)t->first + at) << 16);
            b->second[j] = (float_lanes)(load_shorts((const uint16_t *)t->second + at) << 16);
        }
    }
}

INLINE void store_bfloats(uint16_t *x, float_lanes v, word_lanes lost) {
    store_shorts(x, ((word_lanes)v + lost) >> 16);
}

// Writes moments, and turns the first to directions.
INLINE void store_moments(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                          size_t i) {
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const size_t at = i + (size_t)(j * FLOAT_LANES);
        if (has_f32_moments(format)) {
            store_floats((float *)t->first + at, b->first[j]);
            store_floats((float *)t->second + at, b->second[j]);
        } else {
            store_bfloats((uint16_t *)t->first + at, b->first[j], random_of(b, j) & 0xFFFF);
            store_bfloats((uint16_t *)t->second + at, b->second[j], random_of(b, j) >> 16);
        }
        turn_to_direction(b, s, format, j);
    }
}

INLINE word_lanes largest_seconds(const struct block *b) {
    word_lanes largest = (word_lanes)b->second[0];
    EACH_REGISTER
    for (int j = 1; j < VECTORS; j++) {
        largest = larger_words(largest, (word_lanes)b->second[j]);
    }
    return largest;
}
