// Knows how quantized weights lie in memory: as in the file, or as llama.cpp repacks them.
//
// Refuses to know: what they are multiplied with, and how.

#include "interleaved_types.h"

#if HAS_PRODUCTS

#include <ggml-backend.h>

static bool repacks;

void set_repacks(bool repacks_) { repacks = repacks_; }

static bool is_repacked(const struct ggml_tensor *w) {
    const enum ggml_type type = w->type;
    return repacks && w->buffer && (is_nibble_type(type) || type == GGML_TYPE_Q4_K || type == GGML_TYPE_Q2_K) &&
           strcmp(ggml_backend_buft_name(ggml_backend_buffer_get_type(w->buffer)), "CPU_REPACK") == 0;
}

bool is_row_major(const struct ggml_tensor *w) {
    return (is_block_type(w->type) || is_row_type(w->type)) &&
           (!w->buffer || ggml_backend_buffer_is_host(w->buffer));
}

bool is_known_product(const struct ggml_tensor *t) {
    if (t->op != GGML_OP_MUL_MAT && t->op != GGML_OP_MUL_MAT_ID) {
        return false;
    }
    const struct ggml_tensor *const w = t->src[0], *x = t->src[1];
    const bool is_flat = t->op == GGML_OP_MUL_MAT_ID || (w->ne[2] == 1 && x->ne[2] == 1);
    return is_flat && w->ne[3] == 1 && x->ne[3] == 1 && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) &&
           (is_repacked(w) || is_row_major(w));
}

#else

void set_repacks(bool repacks) { (void)repacks; }

#endif
