// How weights and moments of one block are read from memory and written back, in each format.
//
// Bits that do not fit are rounded at random, so that small changes add up: with beta2 = 0.999 a second
// moment moves by a thousandth a step, which rounding to nearest would drop every time. "At random" is a
// sequence of the golden ratio over the steps, begun somewhere else for every value: as even as can be over
// a few steps, and the same for the same seed, step and place.
//
// In 8 bits the second moment is the upper bits of its float, below the largest of its block: four bits of
// exponent and four of mantissa. This grid stays where it is when the largest changes, so a value that does
// not change is not rounded anew. Its root reaches from the block's largest to 1/256 of it; what is smaller is
// taken for that, which makes its steps shorter. The first moment is kept as the direction of the step, which is the
// first moment over the root of the second: so large values of a block do not drown small ones.

#pragma once

#include "adamw.h"
#include "adamw_simd.h"

enum { VECTORS = ADAMW_BLOCK / FLOAT_LANES };
// The smallest base keeps second moments above 2e-38: their inverse roots are finite.
enum { SECOND_SHIFT = 19, LARGEST_SECOND = 254, SMALLEST_BASE = ADAMW_SMALLEST_BASE };
static const float LARGEST_DIRECTION = 126.9f;  // 127 and what is added at random must stay below 128

// What is yet to be done with a block.
enum left { NOTHING, WEIGHTS, MOMENTS, BOTH };

struct block {
    float_lanes first[VECTORS], second[VECTORS];
    float_lanes direction[VECTORS];  // of the step: what a weight moves by, over the step's size
    word_lanes random;
    enum left left;
};

INLINE bool is_bf16(int format) { return format >= ADAMW_BF16_F32; }

INLINE bool has_8bit_moments(int format) {
    return format == ADAMW_F32_8BIT || format == ADAMW_BF16_8BIT;
}

INLINE bool has_f32_moments(int format) { return format == ADAMW_F32_F32 || format == ADAMW_BF16_F32; }

// Returns 32 bits for each value of the first register of the block that begins at `place`.
INLINE word_lanes random_lanes(const struct adamw_tensor *t, size_t place) {
    word_lanes x = lane_numbers() * 0x9E3779B1u + ((uint32_t)place * 0x9E3779B1u + t->seed);
    x ^= x >> 15;
    return x * 0x85EBCA6Bu + t->turn * 0x9E379E37u;
}

// Returns those of register j. Those of a block's registers are spread evenly: what one value gains by rounding
// another loses.
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

// The root of the second moment, corrected for its beginning at zero, as what the first is divided by.
INLINE float_lanes divisor(const struct adamw_step *s, int format, float_lanes second, float root_scale) {
    // In 8 bits it is never zero.
    const float_lanes root = has_f32_moments(format)    ? exact_root(second)
                             : has_8bit_moments(format) ? quick_root(second)
                                                        : quick_root(second + 1e-37f);
    return fused_lanes(root, all_lanes(root_scale), all_lanes(s->eps));
}

INLINE float_lanes direction(const struct adamw_step *s, int format, float_lanes first, float_lanes second,
                             float root_scale) {
    const float_lanes d = divisor(s, format, second, root_scale);
    return has_f32_moments(format) ? first / d : first * quick_inverse(d);
}

INLINE float_lanes load_direction(const struct adamw_tensor *t, size_t i, float scale) {
    const int_lanes q = (int_lanes)load_bytes((const uint8_t *)t->first + i);
    return fused_lanes(__builtin_convertvector(q, float_lanes), all_lanes(scale), all_lanes(-128.0f * scale));
}

// root_scale: of the step that has written them.
INLINE void load_moments(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                         size_t i, float root_scale) {
    const size_t block = i / ADAMW_BLOCK;
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const size_t at = i + (size_t)(j * FLOAT_LANES);
        if (has_f32_moments(format)) {
            b->first[j] = load_floats((const float *)t->first + at);
            b->second[j] = load_floats((const float *)t->second + at);
        } else if (!has_8bit_moments(format)) {
            b->first[j] = (float_lanes)(load_shorts((const uint16_t *)t->first + at) << 16);
            b->second[j] = (float_lanes)(load_shorts((const uint16_t *)t->second + at) << 16);
        } else {
            const word_lanes bits = load_bytes((const uint8_t *)t->second + at) + t->bases[block];
            b->second[j] = (float_lanes)(bits << SECOND_SHIFT);
            b->first[j] = load_direction(t, at, t->scales[block]) * divisor(s, format, b->second[j], root_scale);
        }
    }
}

INLINE void store_bfloats(uint16_t *x, float_lanes v, word_lanes lost) {
    store_shorts(x, ((word_lanes)v + lost) >> 16);
}

INLINE word_lanes largest_seconds(const struct block *b) {
    word_lanes largest = (word_lanes)b->second[0];
    EACH_REGISTER
    for (int j = 1; j < VECTORS; j++) {
        largest = larger_words(largest, (word_lanes)b->second[j]);
    }
    return largest;
}

// Whether the second moments, which are not below zero, are finite. They are not if the gradient is not.
INLINE bool is_finite(const struct block *b) {
    return !any_lane((word_lanes)(largest_seconds(b) >= 0x7F800000u));
}

// Writes the second moments in 8 bits, and leaves in `b` what was written.
INLINE void store_seconds(struct block *b, const struct adamw_tensor *t, size_t i) {
    const uint32_t upper = largest_word(largest_seconds(b)) >> SECOND_SHIFT;
    const uint32_t base = upper > LARGEST_SECOND + SMALLEST_BASE ? upper - LARGEST_SECOND : SMALLEST_BASE;
    t->bases[i / ADAMW_BLOCK] = (uint16_t)base;
    const word_lanes bases = (word_lanes){0} + base;
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const word_lanes lost = random_of(b, j) >> (32 - SECOND_SHIFT);
        const word_lanes kept = larger_words(((word_lanes)b->second[j] + lost) >> SECOND_SHIFT, bases);
        store_bytes((uint8_t *)t->second + i + j * FLOAT_LANES, kept - bases);
        b->second[j] = (float_lanes)(kept << SECOND_SHIFT);
    }
}

INLINE void store_directions(const struct block *b, const struct adamw_tensor *t, size_t i) {
    word_lanes largest = (word_lanes){0};
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        largest = larger_words(largest, (word_lanes)b->direction[j] & 0x7FFFFFFF);
    }
    const float top = float_of(largest_word(largest));
    // In 1/256 of what is kept, to which a number below 256 is added.
    const float inverse = top > 1e-30f ? LARGEST_DIRECTION * 256.0f / top : 0;
    t->scales[i / ADAMW_BLOCK] = top / LARGEST_DIRECTION;
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const float_lanes x =
            fused_lanes(b->direction[j], all_lanes(inverse), all_lanes(128.0f * 256.0f + 0.5f));
        const word_lanes q = (word_lanes)__builtin_convertvector(x, int_lanes);
        store_bytes((uint8_t *)t->first + i + j * FLOAT_LANES, (q + (random_of(b, j) & 0xFF)) >> 8);
    }
}

// Works out the direction of the step, and writes the moments but for what is kept as the direction.
INLINE void store_moments(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                          size_t i, float root_scale) {
    if (has_8bit_moments(format)) {
        store_seconds(b, t, i);
    }
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const size_t at = i + (size_t)(j * FLOAT_LANES);
        b->direction[j] = direction(s, format, b->first[j], b->second[j], root_scale);
        if (has_f32_moments(format)) {
            store_floats((float *)t->first + at, b->first[j]);
            store_floats((float *)t->second + at, b->second[j]);
        } else if (!has_8bit_moments(format)) {
            store_bfloats((uint16_t *)t->first + at, b->first[j], random_of(b, j) & 0xFFFF);
            store_bfloats((uint16_t *)t->second + at, b->second[j], random_of(b, j) >> 16);
        }
    }
}
