// How weights lie on ARM: row by row, or four or eight rows side by side, as llama.cpp repacks them.
//
// Knows: where the bytes of a block or a superblock are. Refuses to know: what they mean; see arm_types.h.
//
// Rows side by side have each field of all rows before the next field. Of the numbers, four (or eight) bytes of each
// row follow each other, then the next four. So a register of sixteen bytes has sixteen of one row, or four of each
// of four rows, or eight of two, and numbers are unpacked the same way from all three.

#pragma once

#include "weight_layout.h"

#if HAS_ARM_PRODUCTS

#include "arm_simd.h"

enum { TILE_ROWS = 4 };  // that are multiplied at once

// Where the fields of a row's block, or superblock, begin. high: of upper bits that lie apart.
struct arm_type {
    int bytes;
    bool has_superblocks;
    int8_t group_rows;  // that lie side by side if llama.cpp repacks the type; 0: it never does
    int8_t zero_point;  // what a weight of zero is stored as
    int16_t numbers, high, scale, minimum_scale, factors;
};

static const struct arm_type arm_types[] = {
    [GGML_TYPE_Q4_0] = {18, false, 4, 8, .numbers = 2},
    [GGML_TYPE_Q5_0] = {22, false, 0, 16, .high = 2, .numbers = 6},
    [GGML_TYPE_Q8_0] = {34, false, 4, 0, .numbers = 2},
    [GGML_TYPE_IQ4_NL] = {18, false, 4, 0, .numbers = 2},
    [GGML_TYPE_MXFP4] = {17, false, 4, 0, .numbers = 1},
    [GGML_TYPE_Q2_K] = {84, true, 0, 0, .numbers = 16, .scale = 80, .minimum_scale = 82, .factors = 0},
    [GGML_TYPE_Q3_K] = {110, true, 0, 4, .numbers = 32, .high = 0, .scale = 108, .factors = 96},
    [GGML_TYPE_Q4_K] = {144, true, 8, 0, .numbers = 16, .scale = 0, .minimum_scale = 2, .factors = 4},
    [GGML_TYPE_Q5_K] = {176, true, 8, 0, .numbers = 48, .high = 16, .scale = 0, .minimum_scale = 2, .factors = 4},
    [GGML_TYPE_Q6_K] = {210, true, 8, 32, .numbers = 0, .high = 128, .scale = 208, .factors = 192},
    [GGML_TYPE_IQ4_XS] = {136, true, 0, 0, .numbers = 8, .high = 2, .scale = 0, .factors = 4},
};

// Cases of a switch, in each of which the compiler knows the type.
#define EACH_ARM_BLOCK_TYPE(CASE) \
    CASE(GGML_TYPE_Q4_0);         \
    CASE(GGML_TYPE_Q5_0);         \
    CASE(GGML_TYPE_Q8_0);         \
    CASE(GGML_TYPE_IQ4_NL);       \
    CASE(GGML_TYPE_MXFP4)
#define EACH_ARM_SUPERBLOCK_TYPE(CASE) \
    CASE(GGML_TYPE_Q2_K);              \
    CASE(GGML_TYPE_Q3_K);              \
    CASE(GGML_TYPE_Q4_K);              \
    CASE(GGML_TYPE_Q5_K);              \
    CASE(GGML_TYPE_Q6_K);              \
    CASE(GGML_TYPE_IQ4_XS)
#define EACH_ARM_TYPE(CASE)    \
    EACH_ARM_BLOCK_TYPE(CASE); \
    EACH_ARM_SUPERBLOCK_TYPE(CASE)

INLINE bool is_arm_type(enum ggml_type type) {
    return type < sizeof arm_types / sizeof *arm_types && arm_types[type].bytes > 0;
}

// Tells whether llama.cpp may lay rows of a type side by side like this.
INLINE bool has_layout(const enum ggml_type type, const enum row_layout layout) {
    const bool by_four = type == GGML_TYPE_IQ4_NL || type == GGML_TYPE_MXFP4;
    return layout == ROW_BY_ROW || (arm_types[type].group_rows && !(by_four && layout == ROWS_BY_EIGHT_BYTES));
}

// Four rows of a matrix, or a part of a group. tile: which four of the group.
struct arm_rows {
    const char *rows[TILE_ROWS];  // [0]: the group, if they lie side by side
    int tile;
};

// Returns where a field of a group's superblock begins; Q6_K has its fields in another order there.
INLINE int group_offset(const enum ggml_type type, const int in_row) {
    const struct arm_type t = arm_types[type];
    if (type == GGML_TYPE_Q6_K) {
        const int scale = 0, factors = 2, numbers = factors + 16, high = numbers + 128;
        const int at = in_row == t.numbers   ? numbers
                       : in_row == t.high    ? high
                       : in_row == t.factors ? factors
                                             : scale;
        return at * t.group_rows;
    }
    return in_row * t.group_rows;
}

// Returns where a field of block `block` begins, of the first of four rows or of their group.
INLINE const uint8_t *field_of_group(const enum ggml_type type, const struct arm_rows *w, int64_t block,
                                     const int field) {
    const struct arm_type t = arm_types[type];
    return (const uint8_t *)w->rows[0] + block * t.bytes * t.group_rows + group_offset(type, field);
}

INLINE const uint8_t *field_of_row(const enum ggml_type type, const struct arm_rows *w, int64_t block, const int field,
                                   int row) {
    return (const uint8_t *)w->rows[row] + block * arm_types[type].bytes + field;
}

// Loads register i of four that have the sixteen bytes from `at`, a multiple of 16, on, of a field of four rows: of
// row i, if they lie row by row. block: which of the row.
INLINE uint8x16_t sixteen_bytes(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                                int64_t block, const int field, const int at, const int i) {
    const struct arm_type t = arm_types[type];
    if (layout == ROW_BY_ROW) {
        return vld1q_u8(field_of_row(type, w, block, field, i) + at);
    }
    const uint8_t *const from = field_of_group(type, w, block, field) + at * t.group_rows;
    const int registers = t.group_rows / TILE_ROWS;  // between one chunk of these four rows and their next
    const int offset = layout == ROWS_BY_FOUR_BYTES ? i * registers + w->tile
                                                    : i / 2 * 2 * registers + 2 * w->tile + i % 2;
    return vld1q_u8(from + 16 * offset);
}

#endif
