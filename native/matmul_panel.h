#pragma once

#include "weight_layout.h"

#if HAS_PRODUCTS

enum {
    PANEL_ROWS = 16,                           // that are packed side by side
    PANEL_REGISTERS = PANEL_ROWS / INT_LANES,  // one lane for each row
    QUADS = QUANT_BLOCK / 4,                   // of a block
    PANEL_GROUPS = PANEL_ROWS / ROW_GROUP
};

// How blocks of a type are packed. A packed number is not negative.
struct panel_type {
    int n_scales;  // of a row's block, each of as many numbers
    bool has_minima;
    int32_t zero_point;    // what a weight of zero is packed as
    bool has_signs;        // numbers are packed without their signs, which are beside them
    int quads_in_16_bits;  // whose products' sum fits 16 bits; not needed with VNNI or if has_signs
};

static const struct panel_type panel_types[] = {
    [GGML_TYPE_Q4_0] = {1, false, 8, false, 8},
    [GGML_TYPE_Q4_K] = {1, true, 0, false, 8},
    [GGML_TYPE_Q6_K] = {2, false, 32, false, 2},
    [GGML_TYPE_Q8_0] = {1, false, HAS_VNNI ? 128 : 0, !HAS_VNNI, 0},
};

// Four numbers of each row of a panel.
typedef uint8_t panel_quad[PANEL_ROWS][4];

// A block of sixteen rows.
struct panel_block {
    float scales[2][PANEL_ROWS];  // [1]: the second scale, or the minimum
    panel_quad numbers[QUADS];
    panel_quad signs[HAS_VNNI ? 1 : QUADS];
};

// A matrix of quantized weights.
struct quant_matrix {
    enum ggml_type type;
    const char *data;
    size_t row_bytes;
    int64_t n_blocks;  // of a row
};

// Packs the blocks from `first` up to `stop` of the rows from `row` on. out: [stop - first].
void pack_panel(const struct quant_matrix *w, int64_t row, int64_t first, int64_t stop,
                struct panel_block *out);

#endif
