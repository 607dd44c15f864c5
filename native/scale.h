#pragma once

#include <stdbool.h>

#include "custom_node.h"

// Writes the parameters of the nodes that take_scale takes. Returns false if memory is short.
bool write_scale_params(struct custom_node_params *params);

// Takes a node that llama.cpp is about to compute if it multiplies each row by a number of its own; leaves any
// other node alone.
void take_scale(const struct custom_node_params *params, struct ggml_tensor *t);
