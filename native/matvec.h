#pragma once

#include <ggml.h>

// Lets a node of llama.cpp's graph that is about to be computed be computed by our multiplication, where
// it is one that ours knows; does nothing with any other.
void take_matvec(struct ggml_tensor *t);
