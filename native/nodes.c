// Nodes of llama.cpp's graph that are computed by our functions, with its threads.
//
// llama.cpp asks about every node before it computes it. One that we compute is then made a custom node;
// nothing else of the graph changes.

#include "nodes.h"

#include <string.h>

#include "attention.h"
#include "matvec.h"
#include "numbers.h"

bool write_node_params(struct node_params *params, ggml_custom_op_t compute, void *user) {
    struct ggml_context *const ctx = ggml_init((struct ggml_init_params){
        .mem_size = 4 * ggml_tensor_overhead(), .mem_buffer = NULL, .no_alloc = true});
    if (!ctx) {
        return false;
    }
    struct ggml_tensor *arg = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, 1);
    const struct ggml_tensor *const node =
        ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, &arg, 1, compute, GGML_N_TASKS_MAX, user);
    memcpy(params, node->op_params, sizeof *params);
    ggml_free(ctx);
    return true;
}

void take_node(struct ggml_tensor *t, const struct node_params *params) {
    memcpy(t->op_params, params, sizeof *params);
    t->op = GGML_OP_CUSTOM;
}

void take_ours(void *attention, struct ggml_tensor *t) {
    take_attention(attention, t);
    take_matvec(t);
}

// llama.cpp's callback for a model of one process, whose graph needs nothing else; user: what
// dure_attention_new gave.
EXPORT bool dure_nodes_callback(struct ggml_tensor *t, bool ask, void *user) {
    if (ask) {
        take_ours(user, t);
    }
    return !ask;
}
