#pragma once

#include <ggml.h>
#include <stdbool.h>

// The op_params of a ggml custom node, as ggml itself writes them.
struct custom_node_params {
    char bytes[GGML_MAX_OP_PARAMS];
};

// Writes the parameters of a node that `compute` computes on all of llama.cpp's threads. Returns false if
// memory is short. user: what `compute` is called with.
bool write_custom_node_params(struct custom_node_params *params, ggml_custom_op_t compute, void *user);

// Turns a node that llama.cpp is about to compute into a custom node; its sources and its data stay.
void turn_into_custom_node(struct ggml_tensor *t, const struct custom_node_params *params);
