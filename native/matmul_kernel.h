#pragma once

#include "activations.h"
#include "matmul_panel.h"

#if HAS_PRODUCTS

// A matrix and the vectors that it is multiplied with.
struct matrix_product {
    struct quant_matrix matrix;
    const struct activation_block *vectors;  // [vectors][matrix.n_blocks]
    float *out;                              // [results][out_stride]
    int64_t out_stride;                      // in floats
    const int32_t *entries;                  // [n] which results are wanted; NULL: the first n
    int64_t n, per_vector;                   // of results; vector i has results i * per_vector and on
};

// Computes the rows from `first` up to `stop` of a product: multiples of PANEL_ROWS.
void multiply_rows(const struct matrix_product *p, int64_t first, int64_t stop);

#endif
