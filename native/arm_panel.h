// Packs rows of quantized weights into panels on ARM: sixteen rows as bytes, laid out so that a register has what an
// instruction multiplies at once.
//
// Knows: where rows lie (arm_layout.h, arm_panel_types.h), and a panel. Refuses to know: what it is multiplied with.

#pragma once

#include "arm_panel_types.h"
#include "matrix_product.h"

#if HAS_ARM_PRODUCTS

enum {
    // That share a register, of which each has as many bytes as an instruction adds up.
    REGISTER_ROWS = HAS_ARM_I8MM ? 2 : HAS_ARM_DOT ? 4 : 1,
    EIGHT_ROWS = 8,  // that are multiplied at once
    PANEL_ROWS = 16,
    PANEL_BLOCKS = 32,  // that are packed at a time: they stay in the first cache
    HALF_BLOCK = QUANT_BLOCK / 2
};

// Bits of a float to which whole numbers up to 2^22 can be added as if they were added to the float.
enum { MAGIC_BITS = 0x4b400000 };
#define MAGIC 12582912.0f  // 1.5 * 2^23

// Sixteen numbers of eight rows: REGISTER_ROWS of them side by side, then the next rows.
struct packed_half {
    int8_t registers[EIGHT_ROWS][16];
};

// Of a block of eight rows. offsets: minus MAGIC times the scales. Blocks of superblocks have factors in their place.
union packed_scales {
    struct {
        float scales[EIGHT_ROWS], offsets[EIGHT_ROWS];
    };
    int32_t factors[2][EIGHT_ROWS];
};

// Of a superblock of eight rows. minima: sixteen of each row; zeros where a type has eight.
struct packed_superblock {
    float scales[EIGHT_ROWS], minimum_scales[EIGHT_ROWS];
    struct packed_half minima;
};

struct packed_rows {
    struct packed_half halves[2 * PANEL_BLOCKS];
    union packed_scales blocks[PANEL_BLOCKS];
    struct packed_superblock superblocks[PANEL_BLOCKS / SUPERBLOCK];
};

// Where eight rows have a block or a superblock: each of them, or, at its first row, a group with rows side by side.
struct rows_to_pack {
    const uint8_t *rows[EIGHT_ROWS];
};

// ---------------------------------------------------------------- rows side by side

// Returns the first row of the group that row r is of.
INLINE int group_of(const enum ggml_type type, int r) {
    return r / arm_types[type].group_rows * arm_types[type].group_rows;
}

// Loads the sixteen bytes of a group that have byte `at` of a field of row r, and those of the rows beside it. field:
// where it begins in a row that lies alone.
INLINE uint8x16_t load_of_group(const enum ggml_type type, const int together, const struct rows_to_pack *w,
                                int field, int at, int r) {
    const int group_rows = arm_types[type].group_rows, first = group_of(type, r);
    const int i = at / (16 / together) * (group_rows / together) + (r - first) / together;
    return vld1q_u8(w->rows[first] + group_offset(type, field) + 16 * i);
}

// Loads register i of those that have the sixteen bytes from `at` on, as a panel has them.
INLINE uint8x16_t load_register(const enum ggml_type type, const enum row_layout layout,
                                const struct rows_to_pack *w, int field, int at, int i) {
    enum { OWN = REGISTER_ROWS, EACH = 16 / OWN };
    const int together = layout == ROWS_BY_FOUR_BYTES ? 4 : 2;
    const int r = i / OWN * OWN, begin = at + i % OWN * EACH;
    if (together == OWN) {
        return load_of_group(type, together, w, field, begin, r);
    }
    if (OWN == 4) {
        const uint32x4_t a = vreinterpretq_u32_u8(load_of_group(type, together, w, field, begin / 8 * 8, r));
        const uint32x4_t b = vreinterpretq_u32_u8(load_of_group(type, together, w, field, begin / 8 * 8, r + 2));
        return vreinterpretq_u8_u32(begin % 8 ? vuzp2q_u32(a, b) : vuzp1q_u32(a, b));
    }
    const uint32x4_t a = vreinterpretq_u32_u8(load_of_group(type, together, w, field, begin, r));
    const uint32x4_t b = vreinterpretq_u32_u8(load_of_group(type, together, w, field, begin + 4, r));
    return vreinterpretq_u8_u32(r % 4 ? vzip2q_u32(a, b) : vzip1q_u32(a, b));
}

// Returns where a field of two bytes of row r is, which begins at `field` in a row that lies alone.
INLINE const uint8_t *two_bytes_of_group(const enum ggml_type type, const struct rows_to_pack *w, int field, int r) {
    const int first = group_of(type, r);
    return w->rows[first] + group_offset(type, field) + 2 * (r - first);
}

// ---------------------------------------------------------------- numbers

// Stores sixteen numbers of each of eight rows.
INLINE void store_half(const int8x16_t rows[EIGHT_ROWS], struct packed_half *out) {
#pragma GCC unroll 8
    for (int r = 0; r < EIGHT_ROWS; r += REGISTER_ROWS) {
        int8_t *const to = out->registers[r];
#if HAS_ARM_I8MM
        vst2q_s64((int64_t *)to, (int64x2x2_t){{vreinterpretq_s64_s8(rows[r]), vreinterpretq_s64_s8(rows[r + 1])}});
#elif HAS_ARM_DOT
        const int32x4x4_t four = {{vreinterpretq_s32_s8(rows[r]), vreinterpretq_s32_s8(rows[r + 1]),
                                   vreinterpretq_s32_s8(rows[r + 2]), vreinterpretq_s32_s8(rows[r + 3])}};
        vst4q_s32((int32_t *)to, four);
#else
        vst1q_s8(to, rows[r]);
#endif
    }
}

// Returns sixteen numbers of a row.
INLINE int8x16_t half_of_row(const enum ggml_type type, const uint8_t *row, int b, int half) {
    const struct arm_type t = arm_types[type];
    const uint8x16_t bytes = vld1q_u8(row + t.numbers + low_at(type, b, half));
    const uint8x16_t low = type == GGML_TYPE_Q4_0 ? veorq_u8(bytes, vdupq_n_u8(0x88)) : bytes;
    const uint8x16_t high = type == GGML_TYPE_Q5_0      ? ones_of(row + t.high + 2 * half)
                            : has_high_bits(type) ? vld1q_u8(row + t.high + high_at(type, b, half))
                                                        : low;
    return sixteen_numbers(type, low, high, b, half);
}

// Packs half of block b. factors: of the rows, if numbers are packed times them.
INLINE void pack_half(const enum ggml_type type, const enum row_layout layout, const struct rows_to_pack *w, int b,
                      int half, const struct row_factors *factors, struct packed_half *out) {
    const struct arm_panel_type packed = arm_panel_types[type];
    const struct arm_type t = arm_types[type];
    if (layout != ROW_BY_ROW) {
#pragma GCC unroll 8
        for (int i = 0; i < EIGHT_ROWS; i++) {
            const uint8x16_t low = load_register(type, layout, w, t.numbers, low_at(type, b, half), i);
            const uint8x16_t high =
                has_high_bits(type) ? load_register(type, layout, w, t.high, high_at(type, b, half), i) : low;
            vst1q_s8(out->registers[i], sixteen_numbers(type, low, high, b, half));
        }
        return;
    }
    int8x16_t rows[EIGHT_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < EIGHT_ROWS; r++) {
        rows[r] = half_of_row(type, w->rows[r], b, half);
        if (t.has_superblocks && packed.n_factors == 0) {
            const int8_t factor = factors[r].factors[2 * b + half];
            rows[r] = vmulq_s8(rows[r], vdupq_n_s8(packed.is_negated ? (int8_t)-factor : factor));
        }
    }
    store_half(rows, out);
}

// ---------------------------------------------------------------- scales and factors

// Returns the scales of four rows, from r on.
INLINE float32x4_t four_scales(const enum ggml_type type, const enum row_layout layout, const struct rows_to_pack *w,
                               int r) {
    uint16_t halves[4];
    float scales[4];
    if (layout != ROW_BY_ROW && type != GGML_TYPE_MXFP4) {
        return four_halves(two_bytes_of_group(type, w, arm_types[type].scale, r));
    }
    for (int i = 0; i < 4; i++) {
        const uint8_t *const from = layout == ROW_BY_ROW ? w->rows[r + i] : w->rows[group_of(type, r + i)] + i;
        if (type == GGML_TYPE_MXFP4) {
            scales[i] = mxfp4_scale(*from);
        } else {
            memcpy(&halves[i], from, sizeof halves[i]);
        }
    }
    return type == GGML_TYPE_MXFP4 ? vld1q_f32(scales) : four_halves(halves);
}

INLINE void pack_scales(const enum ggml_type type, const enum row_layout layout, const struct rows_to_pack *w,
                        union packed_scales *out) {
    const float by = type == GGML_TYPE_Q4_0 ? 1.0f / Q4_0_TIMES : 1.0f;
#pragma GCC unroll 2
    for (int r = 0; r < EIGHT_ROWS; r += 4) {
        const float32x4_t scales = four_scales(type, layout, w, r);
        vst1q_f32(out->scales + r, vmulq_n_f32(scales, by));
        vst1q_f32(out->offsets + r, vmulq_n_f32(scales, -MAGIC * by));
    }
}

INLINE void pack_superblock_scales(const enum ggml_type type, const enum row_layout layout,
                                   const struct rows_to_pack *w, struct packed_superblock *out) {
    const struct arm_panel_type packed = arm_panel_types[type];
    const struct arm_type t = arm_types[type];
#define TWO_BYTES(field) (layout == ROW_BY_ROW ? w->rows[r] + (field) : two_bytes_of_group(type, w, field, r))
    for (int r = 0; r < EIGHT_ROWS; r++) {
        const float scale = half_to_float(TWO_BYTES(t.scale));
        out->scales[r] = packed.is_negated ? -scale : scale;
        if (packed.n_minima) {
            out->minimum_scales[r] = half_to_float(TWO_BYTES(t.minimum_scale));
        }
    }
#undef TWO_BYTES
}

// Reads the factors of eight rows that lie side by side.
INLINE void read_group_factors(const enum ggml_type type, const uint8_t *from, struct row_factors out[EIGHT_ROWS]) {
    for (int i = 0; i < (type == GGML_TYPE_Q6_K ? 16 : SUPERBLOCK); i++) {
        const struct six_bit_factors six =
            type == GGML_TYPE_Q6_K ? (struct six_bit_factors){{0}, {0}} : six_bit_factors_of(from + 12 * i);
        for (int r = 0; r < EIGHT_ROWS; r++) {
            out[r].factors[i] = (int8_t)(type == GGML_TYPE_Q6_K ? from[EIGHT_ROWS * i + r] : six.factors[r]);
            out[r].minima[i] = (int8_t)six.minima[r];
        }
    }
}

INLINE void read_all_factors(const enum ggml_type type, const enum row_layout layout, const struct rows_to_pack *w,
                             struct row_factors out[EIGHT_ROWS]) {
    if (layout != ROW_BY_ROW) {
        read_group_factors(type, w->rows[0] + group_offset(type, arm_types[type].factors), out);
        return;
    }
    for (int r = 0; r < EIGHT_ROWS; r++) {
        read_factors(type, w->rows[r], &out[r]);
    }
}

// Packs a superblock of eight rows.
INLINE void pack_superblock_rows(const enum ggml_type type, const enum row_layout layout,
                                 const struct rows_to_pack *w, struct packed_half *halves,
                                 union packed_scales *blocks, struct packed_superblock *super) {
    const struct arm_panel_type t = arm_panel_types[type];
    struct row_factors factors[EIGHT_ROWS] = {0};
    read_all_factors(type, layout, w, factors);
    pack_superblock_scales(type, layout, w, super);
    for (int b = 0; b < SUPERBLOCK; b++) {
        pack_half(type, layout, w, b, 0, factors, &halves[2 * b]);
        pack_half(type, layout, w, b, 1, factors, &halves[2 * b + 1]);
        for (int i = 0; i < t.n_factors; i++) {
            for (int r = 0; r < EIGHT_ROWS; r++) {
                blocks[b].factors[i][r] = factors[r].factors[b * t.n_factors + i];
            }
        }
    }
    if (t.n_minima) {
        int8x16_t minima[EIGHT_ROWS];
        for (int r = 0; r < EIGHT_ROWS; r++) {
            minima[r] = vld1q_s8(factors[r].minima);
        }
        store_half(minima, &super->minima);
    }
}

// Packs a block, or a superblock that begins there, of eight rows as block b of a panel.
INLINE void pack_rows(const enum ggml_type type, const enum row_layout layout, const struct rows_to_pack *w, int64_t b,
                      struct packed_rows *out) {
    if (arm_types[type].has_superblocks) {
        pack_superblock_rows(type, layout, w, &out->halves[2 * b], &out->blocks[b],
                             &out->superblocks[b / SUPERBLOCK]);
        return;
    }
    const struct row_factors none[EIGHT_ROWS] = {0};
    pack_half(type, layout, w, 0, 0, none, &out->halves[2 * b]);
    pack_half(type, layout, w, 0, 1, none, &out->halves[2 * b + 1]);
    pack_scales(type, layout, w, &out->blocks[b]);
}

// Packs the blocks from `first` up to `stop` of the eight rows from `row` on; the last ones stand for those that lack.
INLINE void pack_eight_rows(const enum ggml_type type, const enum row_layout layout, const struct quant_matrix *w,
                            int64_t row, int64_t first, int64_t stop, struct packed_rows *out) {
    const struct arm_type t = arm_types[type];
    const int rows_of_group = layout == ROW_BY_ROW ? 1 : t.group_rows;
    const int64_t step = t.has_superblocks ? SUPERBLOCK : 1, last = w->n_rows - rows_of_group;
    struct rows_to_pack from;
    for (int r = 0; r < EIGHT_ROWS; r++) {
        const int64_t own = row + r < last ? row + r : last;
        from.rows[r] = (const uint8_t *)w->data + (size_t)own * w->row_bytes +
                       (size_t)(first / step * t.bytes * rows_of_group);
    }
    for (int64_t b = 0; b < stop - first; b += step) {
        pack_rows(type, layout, &from, b, out);
        for (int r = 0; r < EIGHT_ROWS; r++) {
            from.rows[r] += t.bytes * rows_of_group;
        }
    }
}

// The same of a panel's rows.
INLINE void pack_panel(const enum ggml_type type, const struct quant_matrix *w, int64_t row, int64_t first,
                       int64_t stop, struct packed_rows out[PANEL_ROWS / EIGHT_ROWS]) {
    for (int i = 0; i < PANEL_ROWS / EIGHT_ROWS && row + i * EIGHT_ROWS < w->n_rows; i++) {
        const int64_t own = row + i * EIGHT_ROWS;
        if (w->layout == ROW_BY_ROW) {
            pack_eight_rows(type, ROW_BY_ROW, w, own, first, stop, &out[i]);
#if HAS_ARM_DOT
        } else if (w->layout == ROWS_BY_FOUR_BYTES && arm_types[type].group_rows) {
            pack_eight_rows(type, ROWS_BY_FOUR_BYTES, w, own, first, stop, &out[i]);
        } else if (w->layout == ROWS_BY_EIGHT_BYTES && arm_types[type].group_rows) {
            pack_eight_rows(type, ROWS_BY_EIGHT_BYTES, w, own, first, stop, &out[i]);
#endif
        }
    }
}

#endif
