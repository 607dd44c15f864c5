#pragma once

#include <ggml.h>

struct attention;

// Lets a node of llama.cpp's graph that is about to be computed be computed by our attention, where it
// is one that ours knows; does nothing with any other.
void take_attention(struct attention *a, struct ggml_tensor *t);
