// Nodes of llama.cpp's graph that are computed by our functions, with its threads.
//
// llama.cpp asks about every node before it computes it. One that we compute is then made a custom node;
// nothing else of the graph changes.

#include "nodes.h"

#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "matmul.h"
#include "matvec.h"
#include "numbers.h"
#include "products.h"
#include "scale.h"

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

// What nodes of one context need.
struct nodes {
    struct attention *attention;
    struct matvec *matvec;
    struct matmul *matmul;
    struct node_params scale;
};

void take_ours(struct nodes *nodes, struct ggml_tensor *t) {
    take_attention(nodes->attention, t);
    take_matvec(nodes->matvec, t);
    take_matmul(nodes->matmul, t);
    take_scale(&nodes->scale, t);
}

// Once, before the first context. repacks: see set_repacks.
EXPORT void dure_nodes_start(bool repacks) { set_repacks(repacks); }

EXPORT void dure_nodes_free(struct nodes *nodes) {
    if (nodes) {
        free_attention(nodes->attention);
        free_matvec(nodes->matvec);
        free_matmul(nodes->matmul);
        free(nodes);
    }
}

// For one context, to be freed after it; NULL where there is no memory.
EXPORT struct nodes *dure_nodes_new(void) {
    struct nodes *const nodes = calloc(1, sizeof *nodes);
    if (!nodes || !(nodes->attention = new_attention()) || !write_scale_params(&nodes->scale)) {
        dure_nodes_free(nodes);
        return NULL;
    }
    nodes->matvec = new_matvec();
    nodes->matmul = new_matmul();
    return nodes;
}
