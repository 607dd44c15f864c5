#pragma once

#include <ggml.h>

struct attention;

// Allocates what one llama.cpp context needs. Returns NULL if memory is short.
struct attention *new_attention(void);

void free_attention(struct attention *a);

// Takes a node that llama.cpp is about to compute if it is attention of a kind that is known; leaves any other
// node alone.
void take_attention(struct attention *a, struct ggml_tensor *t);
