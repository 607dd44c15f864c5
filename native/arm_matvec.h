#pragma once

#include "arm_activations.h"
#include "matrix_product.h"

#if HAS_ARM_PRODUCTS

enum { MAX_VECTORS = 8 };  // that share what is read; more are for matmul.c

// Multiplies rows, from `first` up to `stop`, of a matrix with n vectors, MAX_VECTORS at most. vectors: [n][n_blocks],
// as quantize_vector leaves them. out: [n][all rows].
void multiply_arm(int n, const struct quant_matrix *w, const struct activation_block *const *vectors,
                  float *const *out, int64_t first, int64_t stop);

#endif
