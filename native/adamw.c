// AdamW as torch.optim.AdamW computes it, in one pass over memory, and in two where the gradient's norm is
// only known after the last gradient has come.
//
// Moments may move before the norm is known, with the gradient as it is. If the step is clipped after all,
// what is missing is added from the gradient: (c - 1) (1 - beta1) g and (c^2 - 1) (1 - beta2) g^2. That is as
// exact as if they had waited, as long as g^2 has not dwarfed the second moment. So only blocks of which that
// is true move early; blocks with a gradient that is not finite are none of these.

#include "adamw.h"

#include <stdatomic.h>

#include "adamw_state.h"
#include "numbers.h"

enum { RUN = 4096 };   // values that are still in the cache when they are read again
enum { AT_ONCE = 8 };  // blocks, if their moments have 8 bits
static const float MOST_EARLY = 0.25f;  // of the second moment may come from the gradient of an early block

INLINE bool may_move_early(const struct block *b, const struct adamw_tensor *t, const struct adamw_step *s,
                           int format, size_t i) {
    word_lanes found = {0};
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const float_lanes g = load_gradient(t, format, i + (size_t)(j * FLOAT_LANES));
        found |= ~(word_lanes)(g * g * s->rest2 <= b->second[j] * (s->beta2 * MOST_EARLY));
    }
    return !any_lane(found);
}

INLINE void move_moments(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                         size_t i, float scale) {
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const float_lanes g = load_gradient(t, format, i + (size_t)(j * FLOAT_LANES)) * scale;
        b->first[j] = fused_lanes(g - b->first[j], all_lanes(s->rest1), b->first[j]);
        b->second[j] = fused_lanes(g * g, all_lanes(s->rest2), b->second[j] * s->beta2);
    }
}

// Adds to moments that have moved with g what makes it c g.
INLINE void correct_moments(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                            size_t i) {
    const float first = (s->scale - 1) * s->rest1, second = (s->scale * s->scale - 1) * s->rest2;
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const float_lanes g = load_gradient(t, format, i + (size_t)(j * FLOAT_LANES));
        b->first[j] = fused_lanes(g, all_lanes(first), b->first[j]);
        const float_lanes v = fused_lanes(g * g, all_lanes(second), b->second[j]);
        b->second[j] = (float_lanes)((word_lanes)v & (word_lanes)(v > 0));
    }
}

INLINE void undo_moments(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                         size_t i) {
    const float first = s->beta1 > 0 ? 1 / s->beta1 : 0, second = s->beta2 > 0 ? 1 / s->beta2 : 0;
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const float_lanes g = load_gradient(t, format, i + (size_t)(j * FLOAT_LANES));
        b->first[j] = fused_lanes(g, all_lanes(-s->rest1), b->first[j]) * first;
        const float_lanes v = fused_lanes(g * g, all_lanes(-s->rest2), b->second[j]) * second;
        b->second[j] = (float_lanes)((word_lanes)v & (word_lanes)(v > 0));
    }
}

INLINE void move_weights(const struct block *b, const struct adamw_tensor *t, const struct adamw_step *s,
                         int format, size_t i) {
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        const size_t at = i + (size_t)(j * FLOAT_LANES);
        // Not fused: torch rounds the two apart, and over many steps this is most of what a float32 differs by.
        const float_lanes decayed = load_weights(t, format, at) * s->decay;
        store_weights(t, format, at, decayed - b->direction[j] * s->step_size, random_of(b, j));
    }
}

// Loads a block of which the moments have moved, and does what its gradient is needed for.
INLINE void begin_moved(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                        int pass, size_t i) {
    const bool is_exact = pass == ADAMW_FINISH && s->scale == 1;
    b->left = pass == ADAMW_UNDO ? MOMENTS : is_exact ? WEIGHTS : BOTH;
    if (is_exact && has_8bit_moments(format)) {
        return;
    }
    load_moments(b, t, s, format, i, s->root_scale);
    if (pass == ADAMW_UNDO) {
        undo_moments(b, t, s, format, i);
    } else if (!is_exact) {
        correct_moments(b, t, s, format, i);
    }
}

// Works out the direction of a step whose moments are written.
INLINE void load_directions(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                            size_t i) {
    EACH_REGISTER
    for (int j = 0; j < VECTORS; j++) {
        b->direction[j] = has_8bit_moments(format)
                              ? load_direction(t, i + (size_t)(j * FLOAT_LANES), t->scales[i / ADAMW_BLOCK])
                              : direction(s, format, b->first[j], b->second[j], s->root_scale);
    }
}

// Loads a block and does what its gradient is needed for. Returns whether it stays as it was because that is not
// finite.
INLINE bool begin_block(struct block *b, const struct adamw_tensor *t, const struct adamw_step *s, int format,
                        int pass, size_t i, size_t place) {
    const bool has_moved = (pass == ADAMW_FINISH || pass == ADAMW_UNDO) && t->moved[i / ADAMW_BLOCK];
    b->left = NOTHING;
    b->random = random_lanes(t, place) + (has_moved ? 0x80808080u : 0);
    if (has_moved) {
        begin_moved(b, t, s, format, pass, i);
        return false;
    }
    if (pass == ADAMW_UNDO) {
        return false;
    }
    load_moments(b, t, s, format, i, s->root_scale_before);
    if (pass == ADAMW_EARLY) {
        const bool may_move = may_move_early(b, t, s, format, i);
        t->moved[i / ADAMW_BLOCK] = may_move;
        if (!may_move) {
            return false;
        }
    }
    move_moments(b, t, s, format, i, pass == ADAMW_EARLY ? 1 : s->scale);
    if (pass != ADAMW_EARLY && !is_finite(b)) {
        return true;
    }
    b->left = pass == ADAMW_EARLY ? MOMENTS : BOTH;
    return false;
}

// Computes n blocks. place: of the first value in the whole tensor. Returns how many stay as they were.
//
// In 8 bits each waits twice for the largest of its values, so that several at once are much quicker.
INLINE int compute_blocks(const struct adamw_tensor *t, const struct adamw_step *s, int format, int pass, size_t i,
                          size_t place, int n) {
    struct block blocks[AT_ONCE];
    int n_left_out = 0;
    for (int k = 0; k < n; k++) {
        const size_t at = (size_t)(k * ADAMW_BLOCK);
        n_left_out += begin_block(&blocks[k], t, s, format, pass, i + at, place + at);
    }
    for (int k = 0; k < n; k++) {
        const size_t at = (size_t)(k * ADAMW_BLOCK);
        if (blocks[k].left >= MOMENTS) {
            store_moments(&blocks[k], t, s, format, i + at,
                          pass == ADAMW_UNDO ? s->root_scale_before : s->root_scale);
        } else if (blocks[k].left == WEIGHTS) {
            load_directions(&blocks[k], t, s, format, i + at);
        }
    }
    for (int k = 0; k < n; k++) {
        const size_t at = (size_t)(k * ADAMW_BLOCK);
        if (blocks[k].left >= MOMENTS && has_8bit_moments(format)) {
            store_directions(&blocks[k], t, i + at);
        }
        if (blocks[k].left & WEIGHTS) {
            move_weights(&blocks[k], t, s, format, i + at);
        }
    }
    return n_left_out;
}

INLINE size_t weight_bytes(int format) { return is_bf16(format) ? 2 : 4; }

INLINE size_t rest_bytes(int format) { return !is_bf16(format) ? 0 : format == ADAMW_BF16_F32 ? 2 : 1; }

INLINE size_t moment_bytes(int format) {
    return has_f32_moments(format) ? 4 : has_8bit_moments(format) ? 1 : 2;
}

// Computes the last n values, which are fewer than a block, in a block of their own.
INLINE int compute_tail(const struct adamw_tensor *t, const struct adamw_step *s, int format, int pass, size_t i,
                         size_t n) {
    float weights[ADAMW_BLOCK] = {0}, gradient[ADAMW_BLOCK] = {0}, first[ADAMW_BLOCK] = {0},
          second[ADAMW_BLOCK] = {0};
    int16_t rest[ADAMW_BLOCK] = {0};
    const size_t w = weight_bytes(format), r = rest_bytes(format), m = moment_bytes(format);
    if (has_8bit_moments(format)) {
        memset(first, 128, sizeof first);
    }
    memcpy(weights, (char *)t->weights + i * w, n * w);
    memcpy(gradient, (const char *)t->gradient + i * w, n * w);
    memcpy(first, (char *)t->first + i * m, n * m);
    memcpy(second, (char *)t->second + i * m, n * m);
    if (r) {
        memcpy(rest, (char *)t->rest + i * r, n * r);
    }
    struct adamw_tensor one = *t;
    one.weights = weights, one.gradient = gradient, one.first = first, one.second = second, one.rest = rest;
    one.scales = t->scales ? t->scales + i / ADAMW_BLOCK : NULL;
    one.bases = t->bases ? t->bases + i / ADAMW_BLOCK : NULL;
    one.moved = t->moved ? t->moved + i / ADAMW_BLOCK : NULL;
    const int n_left_out = compute_blocks(&one, s, format, pass, 0, i, 1);
    memcpy((char *)t->weights + i * w, weights, n * w);
    memcpy((char *)t->first + i * m, first, n * m);
    memcpy((char *)t->second + i * m, second, n * m);
    if (r) {
        memcpy((char *)t->rest + i * r, rest, n * r);
    }
    return n_left_out;
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
        size_t j = i;
        for (; has_8bit_moments(format) && j + AT_ONCE * ADAMW_BLOCK <= stop; j += AT_ONCE * ADAMW_BLOCK) {
            part->left_out += compute_blocks(&t, &s, format, pass, j, j, AT_ONCE);
        }
        for (; j + ADAMW_BLOCK <= stop; j += ADAMW_BLOCK) {
            part->left_out += compute_blocks(&t, &s, format, pass, j, j, 1);
        }
        if (j < stop) {
            part->left_out += compute_tail(&t, &s, format, pass, j, stop - j);
        }
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
