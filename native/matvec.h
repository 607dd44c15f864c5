#pragma once

#include <ggml.h>

#include "matrix_product.h"

struct matvec;

// Allocates what one llama.cpp context needs. Returns NULL if memory is short, or if this processor lacks the
// instructions.
struct matvec *new_matvec(void);

void free_matvec(struct matvec *m);

// Takes a node that llama.cpp is about to compute if it is the product of a matrix, or of some experts'
// matrices, with few vectors, in a layout that is known; leaves any other node alone. m may be NULL.
void take_matvec(struct matvec *m, struct ggml_tensor *t);

#if HAS_OWN_PRODUCTS

enum { MAX_WIDTH = 32768 };  // of a matrix: vectors are on the stack

// Computes the rows from `first`, a multiple of 16, up to `stop` of a product with few vectors, which were
// quantized for panels.
void multiply_few(const struct matrix_product *p, int64_t first, int64_t stop);

#endif
