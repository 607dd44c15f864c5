#pragma once

#include <ggml.h>
#include <stdbool.h>

// Once, before the first node is taken; false where there is no memory.
bool start_matvec(void);

// Lets a node of llama.cpp's graph that is about to be computed be computed by our multiplication, where
// it is one that ours knows; does nothing with any other.
void take_matvec(struct ggml_tensor *t);
