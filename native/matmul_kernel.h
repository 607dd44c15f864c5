#pragma once

#include "matmul_panel.h"
#include "matrix_product.h"

#if HAS_PRODUCTS

// Computes the rows from `first`, a multiple of PANEL_ROWS, up to `stop` of a product.
void multiply_rows(const struct matrix_product *p, int64_t first, int64_t stop);

#endif
