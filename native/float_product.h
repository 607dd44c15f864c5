#pragma once

#include <ggml.h>

struct float_product;

// Allocates what one llama.cpp context needs. Returns NULL if memory is short, or if this processor lacks the
// instructions.
struct float_product *new_float_product(void);

void free_float_product(struct float_product *f);

// Takes a node that llama.cpp is about to compute if it is the product of a matrix of floats with vectors;
// leaves any other node alone. f may be NULL.
void take_float_product(struct float_product *f, struct ggml_tensor *t);
