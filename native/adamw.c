// AdamW as torch.optim.AdamW computes it, in one pass over memory, and in two where the gradient's norm is
// only known after the last gradient has come.
//
// Moments may move before the norm is known, with the gradient as it is. If the step is clipped after all,
// what is missing is added from the gradient: (c - 1) (1 - beta1) g and (c^2 - 1) (1 - beta2) g^2. That is as
// exact as if they had waited, as long as g^2 has not dwarfed the second moment. So only blocks of which that
// is true move early; blocks with a gradient that is not finite are none of these.

#include "adamw.h"

#include <stdatomic.h>

#include "adamw_8bit.h"
#include "adamw_state.h"

enum { RUN = 4096 };  // values that are still in the cache when they are read again

INLINE bool may_move_early(const struct block *b, const struct adamw_tensor *t, const struct adamw_step *s,
                           int format, size_t i) {
    word_lanes too_large = {0};
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const float_lanes g = load_gradient(t, format, i + (size_t)(j * FLOAT_LANES));
        too_large |= too_large_early(g, b->second[j], s);
    }
    return !any_lane(too_large);
}

INLINE void move_block(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                       int pass, size_t i, bool has_moved) {
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const float_lanes g = load_gradient(t, format, i + (size_t)(j * FLOAT_LANES));
        if (has_moved && pass == ADAMW_UNDO) {
            undo_moments(&b->first[j], &b->second[j], g, s);
        } else if (has_moved) {
            correct_moments(&b->first[j], &b->second[j], g, s);
        } else {
            move_moments(&b->first[j], &b->second[j], pass == ADAMW_EARLY ? g : g * s->scale, s);
        }
    }
}

INLINE void move_weights(const struct block *b, const struct adamw_tensor *t, const struct adamw_step *s,
                         int format, size_t i) {
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const size_t at = i + (size_t)(j * FLOAT_LANES);
        // Not fused: torch rounds the two apart, and over many steps this is most of what a float32 differs by.
        const float_lanes decayed = load_weights(t, format, at) * s->decay;
        store_weights(t, format, at, decayed - b->first[j] * s->step_size, random_of(b, j));
    }
}

// Computes a block. place: of the first value in the whole tensor. Returns whether it stays as it was because its
// gradient is not finite.
INLINE bool compute_block(const struct adamw_tensor *t, const struct adamw_step *s, int format, int pass, size_t i,
                          size_t place) {
    struct block b;
    uint8_t *mark = t->moved + i / ADAMW_BLOCK;
    const bool has_moved = (pass == ADAMW_FINISH || pass == ADAMW_UNDO) && *mark;
    const bool is_done = has_moved && pass == ADAMW_FINISH && s->scale == 1;
    if (!has_moved && pass == ADAMW_UNDO) {
        return false;
    }
    b.random = random_lanes(t, place) + second_turn(has_moved);
    load_moments(&b, t, format, i);
    if (pass == ADAMW_EARLY) {
        *mark = may_move_early(&b, t, s, format, i);
        if (!*mark) {
            return false;
        }
    }
    if (is_done) {
        turn_to_directions(&b, s, format);
    } else {
        has_moved ? move_block(&b, t, s, format, pass, i, true) : move_block(&b, t, s, format, pass, i, false);
        if (pass != ADAMW_EARLY && !has_moved && !is_finite(largest_seconds(&b))) {
            return true;
        }
        store_moments(&b, t, s, format, i);
    }
    if (pass == ADAMW_WHOLE || pass == ADAMW_FINISH) {
        move_weights(&b, t, s, format, i);
    }
    return false;
}

INLINE size_t weight_bytes(int format) { return is_bf16(format) ? 2 : 4; }

INLINE size_t rest_bytes(int format) { return !is_bf16(format) ? 0 : format == ADAMW_BF16_F32 ? 2 : 1; }

INLINE size_t moment_bytes(int format) { return has_f32_moments(format) ? 4 : 2; }

// Computes the last n values, which are fewer than a block, in a block of their own.
INLINE bool compute_tail(const struct adamw_tensor *t, const struct adamw_step *s, int format, int pass, size_t i,
                         size_t n) {
    float weights[ADAMW_BLOCK] = {0}, gradient[ADAMW_BLOCK] = {0}, first[ADAMW_BLOCK] = {0},
          second[ADAMW_BLOCK] = {0};
    int16_t rest[ADAMW_BLOCK] = {0};
    const size_t w = weight_bytes(format), r = rest_bytes(format), m = moment_bytes(format);
    memcpy(weights, (char *)t->weights + i * w, n * w);
    memcpy(gradient, (const char *)t->gradient + i * w, n * w);
    memcpy(first, (char *)t->first + i * m, n * m);
    memcpy(second, (char *)t->second + i * m, n * m);
    if (r) {
        memcpy(rest, (char *)t->rest + i * r, n * r);
    }
    struct adamw_tensor one = *t;
    one.weights = weights, one.gradient = gradient, one.first = first, one.second = second, one.rest = rest;
    one.moved = t->moved ? t->moved + i / ADAMW_BLOCK : NULL;
    const bool is_left_out = compute_block(&one, s, format, pass, 0, i);
    memcpy((char *)t->weights + i * w, weights, n * w);
    memcpy((char *)t->first + i * m, first, n * m);
    memcpy((char *)t->second + i * m, second, n * m);
    if (r) {
        memcpy((char *)t->rest + i * r, rest, n * r);
    }
    return is_left_out;
}

// The same where moments have 8 bits: their block is whole, what is beyond the last value too.
INLINE bool compute_wide_tail(const struct adamw_tensor *t, const struct adamw_step *s, int format, int pass,
                              size_t i, size_t n) {
    float weights[ADAMW_WIDE_BLOCK] = {0}, gradient[ADAMW_WIDE_BLOCK] = {0};
    const size_t w = weight_bytes(format), block = i / ADAMW_WIDE_BLOCK, columns = block * ADAMW_COLUMNS;
    memcpy(weights, (char *)t->weights + i * w, n * w);
    memcpy(gradient, (const char *)t->gradient + i * w, n * w);
    struct adamw_tensor one = *t;
    one.weights = weights, one.gradient = gradient;
    one.first = (char *)t->first + i, one.second = (char *)t->second + i, one.rest = (char *)t->rest + i;
    one.scales = t->scales + columns, one.bases = t->bases + columns, one.moved = t->moved + block;
    const bool is_left_out = compute_wide_block(&one, s, format, pass, 0, i);
    memcpy((char *)t->weights + i * w, weights, n * w);
    return is_left_out;
}

// Returns the sum of the squares of n values from i on; not finite if one of them is not, or too large.
INLINE double squares_of(const struct adamw_tensor *t, int format, size_t i, size_t n) {
    float_lanes sums[4] = {{0}};
    size_t j = 0;
    for (; j + 4 * FLOAT_LANES <= n; j += 4 * FLOAT_LANES) {
        for (int k = 0; k < 4; k++) {
            const float_lanes g = load_gradient(t, format, i + j + (size_t)(k * FLOAT_LANES));
            sums[k] = fused_lanes(g, g, sums[k]);
        }
    }
    const float_lanes all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double sum = 0;
    for (int k = 0; k < FLOAT_LANES; k++) {
        sum += (double)all[k];
    }
    for (; j < n; j++) {
        const float g = is_bf16(format) ? float_of((uint32_t)((const uint16_t *)t->gradient)[i + j] << 16)
                                        : ((const float *)t->gradient)[i + j];
        sum += (double)g * (double)g;
    }
    return sum;
}

// Computes the values from i on before `stop`. Returns how many blocks stay as they were.
INLINE int compute_blocks(const struct adamw_tensor *t, const struct adamw_step *s, int format, int pass, size_t i,
                          size_t stop) {
    int n_left_out = 0;
    for (; i + ADAMW_BLOCK <= stop; i += ADAMW_BLOCK) {
        n_left_out += compute_block(t, s, format, pass, i, i);
    }
    return n_left_out + (i < stop && compute_tail(t, s, format, pass, i, stop - i));
}

INLINE int compute_wide_blocks(const struct adamw_tensor *t, const struct adamw_step *s, int format, int pass,
                               size_t i, size_t stop) {
    int n_left_out = 0;
    for (; i + ADAMW_WIDE_BLOCK <= stop; i += ADAMW_WIDE_BLOCK) {
        n_left_out += compute_wide_block(t, s, format, pass, i, i);
    }
    return n_left_out + (i < stop && compute_wide_tail(t, s, format, pass, i, stop - i));
}

INLINE void compute_part(struct adamw_part *part, int format, int pass) {
    const struct adamw_tensor t = *part->tensor;
    const struct adamw_step s = part->step ? *part->step : (struct adamw_step){0};
    const size_t end = part->first + part->n;
    part->squares = 0;
    part->left_out = 0;
    for (size_t i = part->first; i < end; i += RUN) {
        const size_t stop = end - i < RUN ? end : i + RUN;
        if (pass == ADAMW_SQUARES || pass == ADAMW_EARLY) {
            part->squares += squares_of(&t, format, i, stop - i);
        }
        if (pass == ADAMW_SQUARES) {
            continue;
        }
        part->left_out += has_8bit_moments(format) ? compute_wide_blocks(&t, &s, format, pass, i, stop)
                                                   : compute_blocks(&t, &s, format, pass, i, stop);
    }
}

// A function for each format and pass: the compiler makes of each what is needed there.
#define PASS(format, pass) \
    static void format##_##pass(struct adamw_part *part) { compute_part(part, format, pass); }
#define FORMAT(format)           \
    PASS(format, ADAMW_WHOLE)    \
    PASS(format, ADAMW_EARLY)    \
    PASS(format, ADAMW_FINISH)   \
    PASS(format, ADAMW_UNDO)     \
    PASS(format, ADAMW_SQUARES)
#define PASSES(format) \
    {format##_ADAMW_WHOLE, format##_ADAMW_EARLY, format##_ADAMW_FINISH, format##_ADAMW_UNDO, format##_ADAMW_SQUARES}

FORMAT(ADAMW_F32_F32)
FORMAT(ADAMW_F32_BF16)
FORMAT(ADAMW_F32_8BIT)
FORMAT(ADAMW_BF16_F32)
FORMAT(ADAMW_BF16_BF16)
FORMAT(ADAMW_BF16_8BIT)

static void (*const FUNCTIONS[][5])(struct adamw_part *) = {
    PASSES(ADAMW_F32_F32),  PASSES(ADAMW_F32_BF16),  PASSES(ADAMW_F32_8BIT),
    PASSES(ADAMW_BF16_F32), PASSES(ADAMW_BF16_BF16), PASSES(ADAMW_BF16_8BIT),
};

// Computes parts until none is left. Several threads may do so together, with one `next`, zero at first.
EXPORT void dure_adamw(struct adamw_part *parts, int64_t n, _Atomic int64_t *next) {
    for (int64_t i; (i = atomic_fetch_add_explicit(next, 1, memory_order_relaxed)) < n;) {
        FUNCTIONS[parts[i].tensor->format][parts[i].pass](&parts[i]);
    }
}

// Returns the sizes of the structures, in bytes: whoever fills them in knows whether it has the same ones.
EXPORT int dure_adamw_sizes(void) {
    return (int)(sizeof(struct adamw_tensor) << 16 | sizeof(struct adamw_step) << 8 | sizeof(struct adamw_part));
}
