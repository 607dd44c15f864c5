#pragma once

#include "arm_activations.h"
#include "arm_panel.h"
#include "matrix_product.h"

#if HAS_ARM_PRODUCTS

// Computes the rows from `first`, a multiple of PANEL_ROWS, up to `stop` of a product.
void multiply_rows(const struct matrix_product *p, int64_t first, int64_t stop);

#endif
