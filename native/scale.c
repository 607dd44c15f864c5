// Multiplies each row by a number of its own, in place of llama.cpp: how much an expert's output counts.
//
// Knows: rows of float32. Refuses to know: experts.
//
// llama.cpp looks the factor up for every number (a division each), which took 7 % of a token of a mixture of
// experts: docs/decisions/0015.

#include "scale.h"

#include <stdint.h>

static size_t offset_of(const struct ggml_tensor *t, int64_t row) {
    const int64_t i1 = row % t->ne[1], i2 = row / t->ne[1] % t->ne[2], i3 = row / t->ne[1] / t->ne[2];
    return (size_t)i1 * t->nb[1] + (size_t)i2 * t->nb[2] + (size_t)i3 * t->nb[3];
}

// Computes a node. llama.cpp calls it on each of its threads.
static void scale_node(struct ggml_tensor *dst, int thread, int n_threads, void *user) {
    (void)user;
    const struct ggml_tensor *const x = dst->src[0], *factors = dst->src[1];
    const int64_t n = dst->ne[0], n_rows = ggml_nrows(dst);
    for (int64_t row = n_rows * thread / n_threads; row < n_rows * (thread + 1) / n_threads; row++) {
        const float *const from = (const float *)((const char *)x->data + offset_of(x, row));
        const float factor = *(const float *)((const char *)factors->data + offset_of(factors, row));
        float *const to = (float *)((char *)dst->data + offset_of(dst, row));  // may be where x is
        for (int64_t i = 0; i < n; i++) {
            to[i] = from[i] * factor;
        }
    }
}

static bool has_rows_of_floats(const struct ggml_tensor *t) {
    return t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float);
}

bool write_scale_params(struct custom_node_params *params) {
    return write_custom_node_params(params, scale_node, NULL);
}

void take_scale(const struct custom_node_params *params, struct ggml_tensor *t) {
    if (t->op != GGML_OP_MUL) {
        return;
    }
    const struct ggml_tensor *const x = t->src[0], *factors = t->src[1];
    const bool is_one_each = factors->ne[0] == 1 && x->ne[0] > 1 && factors->ne[1] == x->ne[1] &&
                             factors->ne[2] == x->ne[2] && factors->ne[3] == x->ne[3];
    if (is_one_each && has_rows_of_floats(x) && has_rows_of_floats(factors) && has_rows_of_floats(t)) {
        turn_into_custom_node(t, params);
    }
}
