// Turns a node of llama.cpp's graph into a custom node, which calls a function of ours on llama.cpp's threads.
//
// Knows: how ggml stores a custom node. Refuses to know: which nodes are turned, and what they compute.
//
// A node is turned just before it is computed; nothing else of the graph changes.

#include "custom_node.h"

#include <string.h>

bool write_custom_node_params(struct custom_node_params *params, ggml_custom_op_t compute, void *user) {
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

void turn_into_custom_node(struct ggml_tensor *t, const struct custom_node_params *params) {
    memcpy(t->op_params, params, sizeof *params);
    t->op = GGML_OP_CUSTOM;
}
