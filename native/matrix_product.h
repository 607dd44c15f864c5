// A matrix of quantized weights, and a product of it with vectors.

#pragma once

#include "activations.h"

#if HAS_OWN_PRODUCTS

// A matrix of quantized weights.
struct quant_matrix {
    enum ggml_type type;
    enum row_layout layout;
    const char *data;
    size_t row_bytes;
    int64_t n_rows, n_blocks;  // n_blocks: of a row
};

// Returns the matrix of a tensor, or that of an expert.
static inline struct quant_matrix quant_matrix_of(const struct ggml_tensor *w, int64_t expert) {
    return (struct quant_matrix){
        .type = w->type,
        .layout = row_layout_of(w),
        .data = (const char *)w->data + (size_t)expert * w->nb[2],
        .row_bytes = w->nb[1],
        .n_rows = w->ne[1],
        .n_blocks = w->ne[0] / QUANT_BLOCK,
    };
}

// A matrix and the vectors that it is multiplied with.
struct matrix_product {
    struct quant_matrix matrix;
    const struct activation_block *vectors;  // [vectors][matrix.n_blocks]
    float *out;                              // [results][out_stride]
    int64_t out_stride;                      // in floats
    const int32_t *entries;                  // [n] which results are wanted; NULL: the first n
    int64_t n, per_vector;                   // of results; vector i has results i * per_vector and on
};

static inline int64_t entry_of(const struct matrix_product *p, int64_t i) {
    return p->entries ? p->entries[i] : i;
}

// Returns the vector of the i-th result that is wanted.
static inline const struct activation_block *vector_of(const struct matrix_product *p, int64_t i) {
    return p->vectors + entry_of(p, i) / p->per_vector * p->matrix.n_blocks;
}

static inline float *result_of(const struct matrix_product *p, int64_t i) {
    return p->out + entry_of(p, i) * p->out_stride;
}

#endif
