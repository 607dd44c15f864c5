#pragma once

#include <ggml.h>

// Lets a node of llama.cpp's graph that is about to be computed be computed by our attention, where it
// is one that ours knows; does nothing with any other. Not for two threads at once.
void take_attention(struct ggml_tensor *t);
