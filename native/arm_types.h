// Types of weights on ARM: a page for each says how its numbers and scales are unpacked from the bytes of four rows,
// wherever those lie, and serves the products with few vectors and with many.
//
// A weight of a block is scale * (number - zero point).

#pragma once

#include "arm_layout.h"

#if HAS_ARM_PRODUCTS

// Returns what a weight of zero is stored as.
INLINE int32_t arm_zero_point(const enum ggml_type type, const enum row_layout layout) {
    return type == GGML_TYPE_Q4_0 && layout == ROW_BY_ROW ? 8 : 0;
}

// Returns by how many bits the numbers are shifted to the left as they are unpacked.
INLINE int arm_shifted_by(const enum ggml_type type, const enum row_layout layout) {
    return type == GGML_TYPE_Q4_0 && layout != ROW_BY_ROW ? 4 : 0;
}

// Returns the largest number, its sign left aside.
INLINE int arm_largest(const enum ggml_type type) { return type == GGML_TYPE_Q4_0 ? 15 : 128; }

// Unpacks the numbers of a block of four rows: out[half][register], see sixteen_bytes.
INLINE void unpack_block(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                         int64_t block, int8x16_t out[2][TILE_ROWS]) {
    const int field = arm_types[type].numbers;
    for (int i = 0; i < TILE_ROWS; i++) {
        const uint8x16_t bytes = sixteen_bytes(type, layout, w, block, field, 0, i);
        if (type == GGML_TYPE_Q8_0) {
            out[0][i] = vreinterpretq_s8_u8(bytes);
            out[1][i] = vreinterpretq_s8_u8(sixteen_bytes(type, layout, w, block, field, 16, i));
        } else if (arm_shifted_by(type, layout)) {
            // Repacked, the upper bits of both halves are flipped, which gives numbers with signs.
            out[0][i] = vreinterpretq_s8_u8(vshlq_n_u8(bytes, 4));
            out[1][i] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0xf0)));
        } else {
            out[0][i] = low_nibbles_of(bytes);
            out[1][i] = high_nibbles_of(bytes);
        }
    }
}

// Returns a field of two bytes of each of four rows.
INLINE uint16x4_t two_bytes_of_rows(const enum ggml_type type, const enum row_layout layout,
                                    const struct arm_rows *w, int64_t block, const int field) {
    const struct arm_type t = arm_types[type];
    if (layout != ROW_BY_ROW) {
        const char *const group = w->rows[0] + block * t.bytes * t.group_rows;
        return vreinterpret_u16_u8(vld1_u8((const uint8_t *)group + group_offset(type, field) + 8 * w->tile));
    }
    uint64_t all = 0;
    for (int r = 0; r < TILE_ROWS; r++) {
        uint16_t one;
        memcpy(&one, w->rows[r] + block * t.bytes + field, sizeof one);
        all |= (uint64_t)one << (16 * r);
    }
    return vcreate_u16(all);
}

// Returns the scales of a block, or of a superblock, of four rows.
INLINE float32x4_t arm_scales(const enum ggml_type type, const enum row_layout layout, const struct arm_rows *w,
                              int64_t block) {
    const uint16x4_t halves = two_bytes_of_rows(type, layout, w, block, arm_types[type].scale);
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}

#endif
