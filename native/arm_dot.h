// Products of the numbers of four rows with those of a vector, on ARM.
//
// Knows: the three ways in which numbers of four rows lie in registers. Refuses to know: types of weights.

#pragma once

#include "arm_layout.h"

#if HAS_ARM_PRODUCTS

// Adds each row's lanes: the sums of four registers.
INLINE int32x4_t sums_of_four(const int32x4_t x[TILE_ROWS]) {
    return vpaddq_s32(vpaddq_s32(x[0], x[1]), vpaddq_s32(x[2], x[3]));
}

#if HAS_ARM_DOT

// Adds the products of sixteen numbers of each of four rows with x.
INLINE void add_dots(const enum row_layout layout, int32x4_t sums[TILE_ROWS], const int8x16_t numbers[TILE_ROWS],
                     int8x16_t x) {
    if (layout == ROWS_BY_FOUR_BYTES) {
        sums[0] = vdotq_laneq_s32(sums[0], numbers[0], x, 0);
        sums[0] = vdotq_laneq_s32(sums[0], numbers[1], x, 1);
        sums[0] = vdotq_laneq_s32(sums[0], numbers[2], x, 2);
        sums[0] = vdotq_laneq_s32(sums[0], numbers[3], x, 3);
    } else if (layout == ROWS_BY_EIGHT_BYTES) {
        const int64x2_t longs = vreinterpretq_s64_s8(x);
        const int8x16_t first = vreinterpretq_s8_s64(vdupq_laneq_s64(longs, 0));
        const int8x16_t last = vreinterpretq_s8_s64(vdupq_laneq_s64(longs, 1));
        for (int i = 0; i < 2; i++) {
            sums[i] = vdotq_s32(vdotq_s32(sums[i], numbers[i], first), numbers[2 + i], last);
        }
    } else {
        for (int r = 0; r < TILE_ROWS; r++) {
            sums[r] = vdotq_s32(sums[r], numbers[r], x);
        }
    }
}

// Returns each row's products of 16 n_halves numbers with x, plus `first`. largest: number there is.
INLINE int32x4_t dots_of_rows(const enum row_layout layout, const int largest, const int n_halves,
                              const int8x16_t numbers[][TILE_ROWS], const int8x16_t x[], int32_t first) {
    (void)largest;
    const int32x4_t once = vsetq_lane_s32(first, vdupq_n_s32(0), 0);
    const int32x4_t begin = layout == ROWS_BY_FOUR_BYTES    ? vdupq_n_s32(first)
                            : layout == ROWS_BY_EIGHT_BYTES ? vreinterpretq_s32_s64(vdupq_n_s64((uint32_t)first))
                                                            : once;
    int32x4_t sums[TILE_ROWS] = {begin, begin, begin, begin};
    for (int half = 0; half < n_halves; half++) {
        add_dots(layout, sums, numbers[half], x[half]);
    }
    return layout == ROWS_BY_FOUR_BYTES    ? sums[0]
           : layout == ROWS_BY_EIGHT_BYTES ? vpaddq_s32(sums[0], sums[1])
                                           : sums_of_four(sums);
}

#else

enum { LARGEST_ACTIVATION = 127, LARGEST_SHORT = 32767 };

// Adds the products of sixteen numbers with x, two in each lane.
INLINE int16x8_t add_short_dots(int16x8_t sum, const bool is_first, int8x16_t numbers, int8x16_t x) {
    const int8x8_t low = vget_low_s8(numbers), of_x = vget_low_s8(x);
    return vmlal_high_s8(is_first ? vmull_s8(low, of_x) : vmlal_s8(sum, low, of_x), numbers, x);
}

// The same as with dot products, where rows lie one after the other. Sums stay in 16 bits as long as they fit.
INLINE int32x4_t dots_of_rows(const enum row_layout layout, const int largest, const int n_halves,
                              const int8x16_t numbers[][TILE_ROWS], const int8x16_t x[], int32_t first) {
    (void)layout;
    const int most = LARGEST_SHORT / (largest * LARGEST_ACTIVATION);  // products that fit
    int16x8_t shorts[TILE_ROWS];
    int32x4_t sums[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int half = 0; half < n_halves; half++) {
            const bool begins = half == 0 || most < 4;
            shorts[r] = add_short_dots(begins ? vdupq_n_s16(0) : shorts[r], begins, numbers[half][r], x[half]);
            if (most < 4) {
                sums[r] = half ? vpadalq_s16(sums[r], shorts[r]) : vpaddlq_s16(shorts[r]);
            }
        }
    }
    const int32x4_t begin = vdupq_n_s32(first);
    if (most < 4) {
        return vaddq_s32(sums_of_four(sums), begin);
    }
    const int16x8_t pairs[2] = {vpaddq_s16(shorts[0], shorts[1]), vpaddq_s16(shorts[2], shorts[3])};
    if (most >= 8 * n_halves) {
        return vpadalq_s16(begin, vpaddq_s16(pairs[0], pairs[1]));
    }
    return vaddq_s32(vpaddq_s32(vpaddlq_s16(pairs[0]), vpaddlq_s16(pairs[1])), begin);
}

#endif

// Adds to each row's lane the products of four bytes of x and of the same four of y.
INLINE int32x4_t add_quad_dots(int32x4_t to, int8x16_t x, const int8_t *y) {
    int32_t four;
    memcpy(&four, y, sizeof four);
    const int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));
#if HAS_ARM_DOT
    return vdotq_s32(to, x, all);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(all)), high = vmull_high_s8(x, all);
    return vpadalq_s16(to, vpaddq_s16(low, high));  // minima are small: it fits
#endif
}

#endif
