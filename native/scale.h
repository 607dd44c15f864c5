#pragma once

#include <stdbool.h>

#include "custom_node.h"

// Parameters of the nodes that take_scale takes; false where memory is short.
bool write_scale_params(struct custom_node_params *params);

// Takes a node that multiplies each row by a number of its own; does nothing with any other.
void take_scale(const struct custom_node_params *params, struct ggml_tensor *t);
