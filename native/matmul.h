#pragma once

#include <ggml.h>

struct matmul;

// Allocates what one llama.cpp context needs. Returns NULL if memory is short, or if this processor lacks the
// instructions.
struct matmul *new_matmul(void);

void free_matmul(struct matmul *m);

// Takes a node that llama.cpp is about to compute if it is the product of a matrix, or of some experts'
// matrices, with many vectors, in a layout that is known; leaves any other node alone. m may be NULL.
void take_matmul(struct matmul *m, struct ggml_tensor *t);
