#pragma once

#include <ggml.h>
#include <stdbool.h>

struct matmul;

// For one context of llama.cpp's; NULL where there is no memory, or this processor has nothing that it needs.
struct matmul *new_matmul(void);

void free_matmul(struct matmul *m);

// Takes a node that is a product of a matrix, or of some experts' matrices, with many vectors, where it is
// one that ours knows; does nothing with any other. m may be NULL.
void take_matmul(struct matmul *m, struct ggml_tensor *t);
