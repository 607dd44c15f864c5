#pragma once

#include <ggml.h>
#include <stdbool.h>

// Parameters of a custom node, as ggml itself writes them.
struct node_params {
    char bytes[GGML_MAX_OP_PARAMS];
};

// Those of a node that `compute` computes with all of llama.cpp's threads; false where memory is short.
bool write_node_params(struct node_params *params, ggml_custom_op_t compute, void *user);

// Makes a node of llama.cpp's graph, which is about to be computed, a custom node with these parameters.
void take_node(struct ggml_tensor *t, const struct node_params *params);

struct nodes;

// Takes a node that is attention or a product of ours; does nothing with any other.
// nodes: what dure_nodes_new gave.
void take_ours(struct nodes *nodes, struct ggml_tensor *t);
