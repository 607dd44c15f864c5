// The online softmax: attention over some positions as a state that takes in more positions and other states.
//
// Knows: scores, and the state. Refuses to know: where scores and values come from.
//
// Softmax over all positions is sum(e^(score - m) * value) / sum(e^(score - m)) for any m. A state keeps both
// sums for the largest score so far; when a larger one comes, what is there is rescaled by e^(old m - new m).

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "float_simd.h"
#include "attention_sizes.h"
#include "numbers.h"

// The partial softmax of some query rows. -INFINITY in m: no position was seen yet.
struct partial_softmax {
    float m[ATTENTION_ROWS];                  // the largest score
    float l[ATTENTION_ROWS];                  // the sum of weights, e^(score - m)
    float acc[ATTENTION_ROWS][MAX_HEAD_DIM];  // [rows][head_dim] the sum of weight * value
};

static inline void reset_softmax(struct partial_softmax *s, int n_rows, int64_t head_dim) {
    for (int i = 0; i < n_rows; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0;
        memset(s->acc[i], 0, (size_t)head_dim * sizeof(float));
    }
}

// Softcaps scores[KV_BLOCK], of which n are known, and adds the mask[KV_BLOCK]; NULL: no mask. Returns the
// largest.
INLINE float masked_scores(float *scores, int n, const uint16_t *mask, float softcap) {
    float largest = -INFINITY;
    for (int p = n; p < KV_BLOCK; p++) {
        scores[p] = -INFINITY;
    }
    if (softcap != 0) {
        for (int p = 0; p < n; p++) {
            scores[p] = softcap * tanhf(scores[p]);
        }
    }
    if (mask) {
        for (int p = 0; p < KV_BLOCK; p += FLOAT_LANES) {
            store_floats(scores + p, load_floats(scores + p) + load_halves(mask + p));
        }
    }
    for (int p = 0; p < KV_BLOCK; p++) {
        largest = scores[p] > largest ? scores[p] : largest;
    }
    return largest;
}

// Turns the scores of a row and a block of positions, of which n are known, into weights, and takes them into m
// and l. Returns what acc has to be rescaled with before weight * value is added to it.
static inline float online_softmax(float *scores, int n, const uint16_t *mask, float softcap, float *m,
                                   float *l) {
    const float largest = masked_scores(scores, n, mask, softcap);
    if (largest == -INFINITY) {
        memset(scores, 0, KV_BLOCK * sizeof *scores);
        return 1;
    }
    const float before = *m;
    *m = largest > before ? largest : before;
    for (int p = 0; p < KV_BLOCK; p++) {
        const float x = scores[p] - *m;
        scores[p] = x < -87.0f ? 0 : exp_of_negative(x);
    }
    float sum = 0;
    for (int p = 0; p < KV_BLOCK; p++) {
        sum += scores[p];
    }
    const float rescale = before == -INFINITY ? 0 : exp_of_negative(before - *m);
    *l = *l * rescale + sum;
    return rescale;
}

// Merges the state of other positions into s.
static inline void merge_softmax(struct partial_softmax *s, const struct partial_softmax *other, int n_rows,
                                 int64_t head_dim) {
    for (int i = 0; i < n_rows; i++) {
        if (other->m[i] == -INFINITY) {
            continue;
        }
        const float m = s->m[i] > other->m[i] ? s->m[i] : other->m[i];
        const float a = s->m[i] == -INFINITY ? 0 : exp_of_negative(s->m[i] - m);
        const float b = exp_of_negative(other->m[i] - m);
        s->m[i] = m;
        s->l[i] = s->l[i] * a + other->l[i] * b;
        for (int64_t d = 0; d < head_dim; d++) {
            s->acc[i][d] = s->acc[i][d] * a + other->acc[i][d] * b;
        }
    }
}

// Takes an attention sink into a row: a score without a value, which takes its part of the weight.
static inline void add_attention_sink(struct partial_softmax *s, int row, float sink, int64_t head_dim) {
    const float m = s->m[row] > sink ? s->m[row] : sink;
    const float rescale = s->m[row] == -INFINITY ? 0 : exp_of_negative(s->m[row] - m);
    s->l[row] = s->l[row] * rescale + exp_of_negative(sink - m);
    for (int64_t d = 0; d < head_dim; d++) {
        s->acc[row][d] *= rescale;
    }
}

// Writes acc / l of a row. A row that saw no position gets zeros. out: [head_dim].
static inline void write_softmax(const struct partial_softmax *s, int row, float *out, int64_t head_dim) {
    const float share = s->l[row] == 0 ? 0 : 1 / s->l[row];
    for (int64_t d = 0; d < head_dim; d++) {
        out[d] = s->acc[row][d] * share;
    }
}
