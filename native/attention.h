#pragma once

#include <ggml.h>

struct attention;

// For one context of llama.cpp's; NULL where there is no memory.
struct attention *new_attention(void);

void free_attention(struct attention *a);

// Lets a node of llama.cpp's graph that is about to be computed be computed by our attention, where it
// is one that ours knows; does nothing with any other.
void take_attention(struct attention *a, struct ggml_tensor *t);
