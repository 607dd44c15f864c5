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
    int16_t numbers, high, scale, minimum_scale, factors;
};

static const struct arm_type arm_types[] = {
    [GGML_TYPE_Q4_0] = {18, false, 4, .numbers = 2},
    [GGML_TYPE_Q8_0] = {34, false, 4, .numbers = 2},
};

INLINE bool is_arm_type(enum ggml_type type) {
    return type < sizeof arm_types / sizeof *arm_types && arm_types[type].bytes > 0;
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

// Loads register i of four that have the sixteen bytes from `at`, a multiple of 16, on, of a field of four rows: of
// row i, if they lie row by row. block: which of the row.
INLINE uint8x16_t sixteen_bytes(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                                int64_t block, const int field, const int at, const int i) {
    const struct arm_type t = arm_types[type];
    if (layout == ROW_BY_ROW) {
        return vld1q_u8((const uint8_t *)w->rows[i] + block * t.bytes + field + at);
    }
    const char *const from =
        w->rows[0] + block * t.bytes * t.group_rows + group_offset(type, field) + at * t.group_rows;
    const int registers = t.group_rows / TILE_ROWS;  // between one chunk of these four rows and their next
    const int offset = layout == ROWS_BY_FOUR_BYTES ? i * registers + w->tile
                                                    : i / 2 * 2 * registers + 2 * w->tile + i % 2;
    return vld1q_u8((const uint8_t *)from + 16 * offset);
}

#endif
