// A panel: sixteen rows of quantized weights side by side, so that each lane of a register is a row's.
//
// Knows: the layout of a panel. Refuses to know: how rows get there, see matmul_panel.h.

#pragma once

#include "interleaved_types.h"
#include "matrix_product.h"

#if HAS_PRODUCTS

enum {
    PANEL_ROWS = 16,                           // that are packed side by side
    PANEL_REGISTERS = PANEL_ROWS / INT_LANES,  // one lane for each row
    QUADS = QUANT_BLOCK / 4,                   // of a block
    PANEL_GROUPS = PANEL_ROWS / ROW_GROUP
};

// How blocks of a type are packed. A packed number is not negative.
struct panel_type {
    bool is_super;
    bool is_row;           // of row_types.h
    int n_scales;          // of a row's block, each of as many numbers
    bool has_minima;
    int32_t zero_point;    // what a weight of zero is packed as
    bool has_signs;        // numbers are packed without their signs, which are beside them
    int quads_in_16_bits;  // whose products' sum fits 16 bits; not needed with VNNI or if has_signs
    bool is_small;         // see row_types.h
};

INLINE struct panel_type panel_type_of(const enum ggml_type type) {
    if (is_row_type(type)) {
        const struct row_type t = row_types[type];
        return (struct panel_type){.is_super = true,
                                   .is_row = true,
                                   .n_scales = t.n_scales,
                                   .has_minima = t.has_minima,
                                   .zero_point = raised_by(type),
                                   .has_signs = t.is_signed && !HAS_VNNI,
                                   .quads_in_16_bits = t.quads_in_16_bits,
                                   .is_small = t.is_small};
    }
    if (is_block_type(type)) {
        const struct block_type t = block_types[type];
        return (struct panel_type){.n_scales = 1,
                                   .zero_point = block_raised_by(type),
                                   .has_signs = t.is_signed && !HAS_VNNI,
                                   .quads_in_16_bits = t.quads_in_16_bits};
    }
    const bool is_q4_k = type == GGML_TYPE_Q4_K;
    return (struct panel_type){.is_super = is_q4_k,
                               .n_scales = 1,
                               .has_minima = is_q4_k,
                               .zero_point = is_q4_k ? 0 : 8,
                               .quads_in_16_bits = 8};
}

// What sums of activations count in their corrections.
INLINE int32_t zero_point_of_corrections(enum ggml_type type) {
    return has_paired_corrections(type) ? 1 : panel_type_of(type).zero_point;
}

// Four numbers of each row of a panel.
typedef uint8_t panel_quad[PANEL_ROWS][4];

// A block of sixteen rows. Blocks of superblocks have factors, whole numbers, in place of scales.
struct panel_block {
    union {
        float scales[2][PANEL_ROWS];
        int32_t factors[2][PANEL_ROWS];
    };  // [1]: the second factor, or the minimum, a float
    panel_quad numbers[QUADS];
    panel_quad signs[HAS_VNNI ? 1 : QUADS];
};

// What sixteen rows' superblocks have besides. scales[1]: of the minima. minima: of each block, of its first
// and its last sixteen numbers, as two numbers of 16 bits.
struct panel_superblock {
    float scales[2][PANEL_ROWS];
    int32_t minima[SUPERBLOCK][PANEL_ROWS];
};

// ---------------------------------------------------------------- packing

INLINE void store_quad(panel_quad *numbers, int group, int quad, __m256i v) {
    _mm256_storeu_si256((__m256i *)numbers[quad][group * ROW_GROUP], v);
}

// Stores quad q of a block of eight rows.
INLINE void store_numbers(const bool is_signed, __m256i x, int group, int q, struct panel_block *out) {
    if (!is_signed) {
        store_quad(out->numbers, group, q, x);
    } else if (HAS_VNNI) {
        store_quad(out->numbers, group, q, _mm256_xor_si256(x, _mm256_set1_epi8((char)0x80)));
    } else {
        store_quad(out->numbers, group, q, _mm256_abs_epi8(x));
        store_quad(out->signs, group, q, x);
    }
}

#endif
