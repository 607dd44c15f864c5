// Notes which experts the first token of a step has in each layer, for a trace.
//
// Knows: the names of weights, and that a product with experts has their numbers as its third source. Refuses to
// know: how experts are chosen, and how products are computed.

#include "expert_choices.h"

#include <ggml-backend.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allreduce_record.h"
#include "attributes.h"

enum { MOST_CHOSEN = 64 };  // in a layer

static int32_t *chosen;  // [n_layers][MOST_CHOSEN], -1 where there is none; NULL: choices are not kept
static int64_t n_layers;
static int64_t n_experts;  // that a layer has

// Returns the layer of a product of a layer's experts with what lies between their two halves; -1 of any other
// node. Also tells it of a product that became a custom node.
static int64_t layer_of(const struct ggml_tensor *t) {
    int layer = -1, end = 0;
    const bool has_experts = (t->op == GGML_OP_MUL_MAT_ID || t->op == GGML_OP_CUSTOM) && t->src[0] && t->src[2] &&
                             t->src[2]->type == GGML_TYPE_I32;
    if (!has_experts || sscanf(t->src[0]->name, "blk.%d.ffn_down_exps.weight%n", &layer, &end) != 1) {
        return -1;
    }
    return end > 0 && t->src[0]->name[end] == 0 && layer >= 0 && layer < n_layers ? layer : -1;
}

bool notes_choice(const struct ggml_tensor *t) { return chosen && layer_of(t) >= 0; }

void note_choice(const struct ggml_tensor *t) {
    const struct ggml_tensor *const ids = t->src[2];  // [experts of a token, tokens]
    int32_t *const out = chosen + layer_of(t) * MOST_CHOSEN;
    const int64_t n = ids->ne[0] < MOST_CHOSEN ? ids->ne[0] : MOST_CHOSEN;
    if (out[0] >= 0 || ggml_nelements(ids) == 0) {
        return;
    }
    n_experts = t->src[0]->ne[2];
    const ggml_backend_buffer_t buffer = ids->view_src ? ids->view_src->buffer : ids->buffer;
    if (!buffer || ggml_backend_buffer_is_host(buffer)) {
        memcpy(out, ids->data, (size_t)n * sizeof *out);
    } else {
        ggml_backend_tensor_get(ids, out, 0, (size_t)n * sizeof *out);
    }
}

static void forget_choices(void) {
    for (int64_t i = 0; i < n_layers * MOST_CHOSEN; i++) {
        chosen[i] = -1;
    }
}

// Keeps the choices in n layers from now on; 0 keeps none. Returns a status.
EXPORT int dure_experts_trace(int64_t n) {
    free(chosen);
    chosen = n ? calloc((size_t)n * MOST_CHOSEN, sizeof *chosen) : NULL;
    n_layers = chosen ? n : 0;
    n_experts = 0;
    forget_choices();
    return n && !chosen ? ALLREDUCE_NO_MEMORY : ALLREDUCE_OK;
}

// Copies the choices since the last call, as int32 [n_layers][MOST_CHOSEN], and forgets them. Returns how many
// experts a layer has; 0 if no layer has any.
EXPORT int64_t dure_experts_chosen(int32_t *out) {
    memcpy(out, chosen, (size_t)(n_layers * MOST_CHOSEN) * sizeof *out);
    forget_choices();
    return n_experts;
}
