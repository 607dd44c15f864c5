#pragma once

#include <ggml.h>
#include <stdbool.h>

struct importance;

// Tells whether a node that llama.cpp is about to compute multiplies a weight of a layer. Ask before a kernel
// takes the node; if so, `gather_input` comes once the node is computed.
bool wants_input(struct importance *g, const struct ggml_tensor *t);

// Adds up the squares of what the weight of the node was multiplied with, if `wants_input` wanted this node.
void gather_input(struct importance *g, const struct ggml_tensor *t);

struct importance *new_importance(void);
void free_importance(struct importance *g);
