// Blocks of which both moments have 8 bits, and how they lie in memory.
//
// The second moment is the upper bits of its float, below the largest of its column: four bits of exponent and
// four of mantissa. This grid stays where it is when the largest changes, so a value that does not change is not
// rounded anew. Its root reaches from the column's largest to 1/256 of it; what is smaller is taken for that,
// which makes its steps shorter. The first moment is kept as the direction of the step, which is the first
// moment over the root of the second: so large values do not drown small ones.
//
// A column is a lane of 64 registers, so finding its largest value and applying its scale takes no work across
// lanes. Of four registers the bytes lie together, as those of 32-bit words: shifts and masks get at them.
// The values of registers are the weights as they come, 16 at a time; of bfloat16 weights 32 make two registers,
// the even ones and the odd ones.

#pragma once

#include "adamw_moments.h"

// LANE_GROUPS: registers for the columns of a row.
enum { ROWS = ADAMW_WIDE_BLOCK / ADAMW_COLUMNS, LANE_GROUPS = ADAMW_COLUMNS / FLOAT_LANES };
// The smallest base keeps second moments above 2e-38: their inverse roots are finite.
enum { SECOND_SHIFT = 19, LARGEST_SECOND = 254, SMALLEST_BASE = ADAMW_SMALLEST_BASE };
static const float LARGEST_DIRECTION = 126.9f;  // 127 and what is added at random must stay below 128
static const uint32_t NEXT_ROW = 0x9E3779B1u;   // is added to random bits

#define EACH_OF_FOUR _Pragma("GCC unroll 4")

// Some columns of a block. first: after the second moments are written, the directions.
struct columns {
    float_lanes first[ROWS], second[ROWS];
    word_lanes random, largest;
};

struct wide_block {
    struct columns groups[LANE_GROUPS];
    enum left left;
};

INLINE word_lanes shifted_left(word_lanes x, int by) { return by >= 0 ? x << by : x >> -by; }

// Returns byte k of each lane at bit `at`; all else is zero.
INLINE word_lanes byte_at(word_lanes x, int k, int at) { return shifted_left(x, at - 8 * k) & (0xFFu << at); }

// Puts the bytes together that four registers have at bit `at`.
INLINE word_lanes four_bytes(const word_lanes x[4], int at) {
    const word_lanes upper = chosen_bits(0xFF0000, shifted_left(x[2], 16 - at), shifted_left(x[3], 24 - at));
    const word_lanes lower = chosen_bits(0xFF, shifted_left(x[0], -at), shifted_left(x[1], 8 - at));
    return chosen_bits(0xFFFF, lower, upper);
}

// i: the place of a group's first value in four rows.
INLINE void load_four(float_lanes out[4], const void *x, int format, size_t i, int column) {
    if (!is_bf16(format)) {
        EACH_OF_FOUR
        for (int k = 0; k < 4; k++) {
            out[k] = load_floats((const float *)x + i + k * ADAMW_COLUMNS + column);
        }
        return;
    }
    EACH_OF_FOUR
    for (int k = 0; k < 4; k += 2) {
        const word_lanes two = load_words((const uint16_t *)x + i + k * ADAMW_COLUMNS + 2 * column);
        out[k] = (float_lanes)(two << 16);
        out[k + 1] = (float_lanes)(two & 0xFFFF0000u);
    }
}

INLINE word_lanes load_four_bytes(const void *x, size_t i, int column) {
    return load_words((const uint8_t *)x + i + 4 * column);
}

INLINE float_lanes quick_divisor(const struct adamw_step *s, float_lanes second, float root_scale) {
    return fused_lanes(quick_root(second), all_lanes(root_scale), all_lanes(s->eps));
}

// Returns directions of which byte k of each lane holds the one. scales: of the columns.
INLINE float_lanes direction_of(word_lanes x, int k, float_lanes scales) {
    const word_lanes above_one = byte_at(x, k, 15) | 0x3F800000u;  // 1 + byte / 256
    return fused_lanes((float_lanes)above_one, scales * 256, scales * -384);
}

// root_scale: of the step that has written them. i: as in load_four; row: the first of four.
INLINE void load_moments8(struct columns *c, const struct adamw_tensor *t, const struct adamw_step *s, size_t i,
                          int row, int column, float_lanes scales, word_lanes bases, float root_scale) {
    const word_lanes first = load_four_bytes(t->first, i, column);
    const word_lanes second = load_four_bytes(t->second, i, column);
    EACH_OF_FOUR
    for (int k = 0; k < 4; k++) {
        c->second[row + k] = (float_lanes)(byte_at(second, k, SECOND_SHIFT) + bases);
        c->first[row + k] = direction_of(first, k, scales) * quick_divisor(s, c->second[row + k], root_scale);
    }
}

// Loads columns, and does what their gradient is needed for. Returns whether their moments may not move early.
INLINE bool begin_columns(struct columns *c, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                          int pass, size_t i, int column, bool has_moved) {
    const size_t at = i / ADAMW_WIDE_BLOCK * ADAMW_COLUMNS + (size_t)column;
    const float_lanes scales = load_floats(t->scales + at);
    const word_lanes bases = load_shorts(t->bases + at) << SECOND_SHIFT;
    const float root_scale = has_moved ? s->root_scale : s->root_scale_before;
    word_lanes too_large = {0};
    c->largest = (word_lanes){0};
    for (int row = 0; row < ROWS; row += 4, i += 4 * ADAMW_COLUMNS) {
        float_lanes g[4];
        load_four(g, t->gradient, format, i, column);
        load_moments8(c, t, s, i, row, column, scales, bases, root_scale);
        EACH_OF_FOUR
        for (int k = 0; k < 4; k++) {
            float_lanes *first = &c->first[row + k], *second = &c->second[row + k];
            if (has_moved && pass == ADAMW_UNDO) {
                undo_moments(first, second, g[k], s);
            } else if (has_moved) {
                correct_moments(first, second, g[k], s);
            } else if (pass == ADAMW_EARLY) {
                too_large |= too_large_early(g[k], *second, s);
                move_moments(first, second, g[k], s);
            } else {
                move_moments(first, second, g[k] * s->scale, s);
            }
            c->largest = larger_words(c->largest, (word_lanes)*second);
        }
    }
    return pass == ADAMW_EARLY && any_lane(too_large);
}

// Works out the direction of the step, and writes the second moments. Returns the directions' largest value.
INLINE float_lanes store_seconds(struct columns *c, const struct adamw_tensor *t, const struct adamw_step *s,
                                 size_t i, int column, float root_scale) {
    const word_lanes least = (word_lanes){0} + (LARGEST_SECOND + SMALLEST_BASE);
    const word_lanes bases = larger_words(c->largest >> SECOND_SHIFT, least) - LARGEST_SECOND;
    store_shorts(t->bases + i / ADAMW_WIDE_BLOCK * ADAMW_COLUMNS + column, bases);
    const word_lanes lowest = bases << SECOND_SHIFT;
    word_lanes random = c->random, largest = {0};
    for (int row = 0; row < ROWS; row += 4, i += 4 * ADAMW_COLUMNS) {
        word_lanes bytes[4];
        EACH_OF_FOUR
        for (int k = 0; k < 4; k++, random += NEXT_ROW) {
            const word_lanes rounded = (word_lanes)c->second[row + k] + (random >> (32 - SECOND_SHIFT));
            const word_lanes kept = larger_words(rounded, lowest);
            bytes[k] = kept - lowest;
            const float_lanes second = (float_lanes)(kept & ~((1u << SECOND_SHIFT) - 1));
            c->first[row + k] *= quick_inverse(quick_divisor(s, second, root_scale));
            largest = larger_words(largest, (word_lanes)c->first[row + k] & 0x7FFFFFFF);
        }
        store_words((uint8_t *)t->second + i + 4 * column, four_bytes(bytes, SECOND_SHIFT));
    }
    return (float_lanes)largest;
}

// Moves four weights of each lane. random: bits 0 to 7 at random, and bit 15.
INLINE void move_four(const float_lanes directions[4], const word_lanes random[4], const struct adamw_tensor *t,
                      const struct adamw_step *s, int format, size_t i, int column) {
    float_lanes w[4];
    load_four(w, t->weights, format, i, column);
    if (is_bf16(format)) {
        // Together with half of what the last kept bit of `weights` counts, which rounds them to the nearest.
        const word_lanes rest = load_four_bytes(t->rest, i, column);
        EACH_OF_FOUR
        for (int k = 0; k < 4; k++) {
            w[k] = (float_lanes)(((word_lanes)w[k] | byte_at(rest, k, 8)) - 0x8000u);
        }
    }
    word_lanes bits[4];
    EACH_OF_FOUR
    for (int k = 0; k < 4; k++) {
        w[k] = fused_lanes(directions[k], all_lanes(-s->step_size), w[k] * s->decay);
        bits[k] = (word_lanes)w[k] + random[k];
        if (!is_bf16(format)) {
            store_floats((float *)t->weights + i + k * ADAMW_COLUMNS + column, w[k]);
        }
    }
    if (is_bf16(format)) {
        uint16_t *weights = (uint16_t *)t->weights + i + 2 * column;
        store_words(weights, chosen_bits(0xFFFF, bits[0] >> 16, bits[1]));
        store_words(weights + 2 * ADAMW_COLUMNS, chosen_bits(0xFFFF, bits[2] >> 16, bits[3]));
        store_words((uint8_t *)t->rest + i + 4 * column, four_bytes(bits, 8));
    }
}

// Writes the directions, of which `top` is the largest in each column, and moves weights if they are to be.
INLINE void store_directions(const struct columns *c, const struct adamw_tensor *t, const struct adamw_step *s,
                             int format, size_t i, int column, float_lanes top, bool moves_weights) {
    // Without their last two bits, 384 times them is exact: no direction is then exactly none.
    const word_lanes scales = (word_lanes)(top * (1 / LARGEST_DIRECTION)) & ~3u;
    store_floats(t->scales + i / ADAMW_WIDE_BLOCK * ADAMW_COLUMNS + column, (float_lanes)scales);
    const float_lanes inverse =
        (float_lanes)((word_lanes)(LARGEST_DIRECTION / top) & (word_lanes)(top > 1e-30f));
    word_lanes random_bits = c->random;
    for (int row = 0; row < ROWS; row += 4, i += 4 * ADAMW_COLUMNS) {
        word_lanes bytes[4], random[4];
        EACH_OF_FOUR
        for (int k = 0; k < 4; k++, random_bits += NEXT_ROW) {
            random[k] = (random_bits & 0xFF) | 0x8000u;
            // A float of this size counts in 1/256. 128 comes with bit 15 of `random`.
            const float_lanes x = fused_lanes(c->first[row + k], inverse, all_lanes(49152));
            bytes[k] = (word_lanes)x + random[k];
        }
        store_words((uint8_t *)t->first + i + 4 * column, four_bytes(bytes, 8));
        if (moves_weights) {
            move_four(&c->first[row], random, t, s, format, i, column);
        }
    }
}

// Moves weights in the direction that is kept.
INLINE void move_columns(const struct columns *c, const struct adamw_tensor *t, const struct adamw_step *s,
                         int format, size_t i, int column) {
    const float_lanes scales = load_floats(t->scales + i / ADAMW_WIDE_BLOCK * ADAMW_COLUMNS + column);
    word_lanes random_bits = c->random;
    for (int row = 0; row < ROWS; row += 4, i += 4 * ADAMW_COLUMNS) {
        const word_lanes first = load_four_bytes(t->first, i, column);
        float_lanes directions[4];
        word_lanes random[4];
        EACH_OF_FOUR
        for (int k = 0; k < 4; k++, random_bits += NEXT_ROW) {
            random[k] = (random_bits & 0xFF) | 0x8000u;
            directions[k] = direction_of(first, k, scales);
        }
        move_four(directions, random, t, s, format, i, column);
    }
}

// Loads a block and does what its gradient is needed for. Returns whether it stays as it was because that is not
// finite.
INLINE bool begin_wide_block(struct wide_block *b, const struct adamw_tensor *t, const struct adamw_step *s,
                             int format, int pass, size_t i, size_t place) {
    uint8_t *mark = t->moved + i / ADAMW_WIDE_BLOCK;
    const bool has_moved = (pass == ADAMW_FINISH || pass == ADAMW_UNDO) && *mark;
    for (int k = 0; k < LANE_GROUPS; k++) {
        b->groups[k].random = random_lanes(t, place + (size_t)(k * FLOAT_LANES)) + second_turn(has_moved);
    }
    b->left = NOTHING;
    if (has_moved && pass == ADAMW_FINISH && s->scale == 1) {
        b->left = WEIGHTS;
        return false;
    }
    if (!has_moved && pass == ADAMW_UNDO) {
        return false;
    }
    bool stays = false;
    word_lanes largest = {0};
    for (int k = 0; k < LANE_GROUPS; k++) {
        stays |= has_moved ? begin_columns(&b->groups[k], t, s, format, pass, i, k * FLOAT_LANES, true)
                           : begin_columns(&b->groups[k], t, s, format, pass, i, k * FLOAT_LANES, false);
        largest = larger_words(largest, b->groups[k].largest);
    }
    if (pass == ADAMW_EARLY) {
        *mark = !stays;
    } else if (!has_moved) {
        stays = !is_finite(largest);
    }
    if (!stays) {
        b->left = pass == ADAMW_EARLY || pass == ADAMW_UNDO ? MOMENTS : BOTH;
    }
    return stays && pass != ADAMW_EARLY;
}

// Computes a block. place: of the first value in the whole tensor. Returns whether it stays as it was because its
// gradient is not finite.
INLINE bool compute_wide_block(const struct adamw_tensor *t, const struct adamw_step *s, int format, int pass,
                               size_t i, size_t place) {
    struct wide_block b;
    const bool is_left_out = begin_wide_block(&b, t, s, format, pass, i, place);
    for (int k = 0; k < LANE_GROUPS && b.left != NOTHING; k++) {
        struct columns *c = &b.groups[k];
        if (b.left == WEIGHTS) {
            move_columns(c, t, s, format, i, k * FLOAT_LANES);
            continue;
        }
        const float root_scale = pass == ADAMW_UNDO ? s->root_scale_before : s->root_scale;
        const float_lanes top = store_seconds(c, t, s, i, k * FLOAT_LANES, root_scale);
        const bool moves_weights = pass == ADAMW_WHOLE || pass == ADAMW_FINISH;
        store_directions(c, t, s, format, i, k * FLOAT_LANES, top, moves_weights);
    }
    return is_left_out;
}
