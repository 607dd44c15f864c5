#pragma once

#include <ggml.h>

// The kernels of one llama.cpp context.
struct kernels;

// Gives a node that llama.cpp is about to compute to the kernel that takes it; leaves any other node alone.
// kernels: what dure_kernels_new returned.
void dispatch_node(struct kernels *kernels, struct ggml_tensor *t);

// Returns what gathers the inputs of the context's weights; NULL if nothing does.
struct importance *importance_of(const struct kernels *kernels);
