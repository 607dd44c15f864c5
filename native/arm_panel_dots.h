// Products of eight packed rows with vectors on ARM, as whole numbers.
//
// Knows: the instructions that multiply bytes. Refuses to know: types of weights, and scales.

#pragma once

#include "arm_panel.h"

#if HAS_ARM_PRODUCTS

// Vectors that share what is read of a panel: what fits the registers.
enum { MAX_TILE = HAS_ARM_DOT ? 4 : 2, QUARTETS = EIGHT_ROWS / 4 };

// Loads four numbers into a register of their own. The compiler must not copy another register instead: that takes a
// place among the multiplications, which a load does not.
INLINE int32x4_t load_anew(const void *from) {
    int32x4_t x;
    __asm__ volatile("ldr %q0, %1" : "=w"(x) : "m"(*(const int32_t(*)[4])from));
    return x;
}

// Loads a number into a lane, from which it is multiplied.
INLINE float32x4_t load_lane(const float *from) {
    float32x4_t x;
    __asm__("ldr %s0, %1" : "=w"(x) : "m"(*from));
    return x;
}

// Adds x times the number in the first lane of y. The compiler would copy that to all lanes if it is used twice.
INLINE float32x4_t add_times_lane(float32x4_t to, float32x4_t x, float32x4_t y) {
    __asm__("fmla %0.4s, %1.4s, %2.s[0]" : "+w"(to) : "w"(x), "w"(y));
    return to;
}

#if HAS_ARM_I8MM

// Adds the products of 16 n_halves numbers of eight rows with n vectors to four numbers, the same for all. whole:
// [n][rows].
INLINE void multiply_halves(const int n_halves, const int sums_of, const int n, const struct packed_half *halves,
                            const int8_t *const *x, const void *start, int32x4_t whole[][QUARTETS]) {
    (void)sums_of;
    enum { PAIRS = EIGHT_ROWS / 2, VECTOR_PAIRS = MAX_TILE / 2 };
    int32x4_t sums[VECTOR_PAIRS][PAIRS];  // two rows with the first vector, then with the second
    const int n_pairs = (n + 1) / 2;
    for (int i = 0; i < n_pairs; i++) {
        for (int p = 0; p < PAIRS; p++) {
            sums[i][p] = load_anew(start);
        }
    }
    for (int h = 0; h < n_halves; h++) {
        int64x2_t vectors[VECTOR_PAIRS][2];
        for (int i = 0; i < n_pairs; i++) {
            const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x[2 * i] + HALF_BLOCK * h));
            const int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(x[2 * i + 1 < n ? 2 * i + 1 : 2 * i] + HALF_BLOCK * h));
            vectors[i][0] = vzip1q_s64(a, b);
            vectors[i][1] = vzip2q_s64(a, b);
        }
        for (int p = 0; p < PAIRS; p++) {
            for (int k = 0; k < 2; k++) {
                const int8x16_t rows = vld1q_s8(halves[h].registers[2 * p + k]);
                for (int i = 0; i < n_pairs; i++) {
                    sums[i][p] = vmmlaq_s32(sums[i][p], vreinterpretq_s8_s64(vectors[i][k]), rows);
                }
            }
        }
    }
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < QUARTETS; r++) {
            const int64x2_t a = vreinterpretq_s64_s32(sums[i / 2][2 * r]);
            const int64x2_t b = vreinterpretq_s64_s32(sums[i / 2][2 * r + 1]);
            whole[i][r] = vreinterpretq_s32_s64(i % 2 ? vzip2q_s64(a, b) : vzip1q_s64(a, b));
        }
    }
}

#elif HAS_ARM_DOT

INLINE int32x4_t add_dot_of_lane(int32x4_t to, int8x16_t rows, int8x16_t x, const int lane) {
    switch (lane) {  // known to the compiler
        case 0: return vdotq_laneq_s32(to, rows, x, 0);
        case 1: return vdotq_laneq_s32(to, rows, x, 1);
        case 2: return vdotq_laneq_s32(to, rows, x, 2);
        default: return vdotq_laneq_s32(to, rows, x, 3);
    }
}

// Adds the products of sixteen numbers of eight rows with n vectors.
INLINE void add_half(const int n, const struct packed_half *half, const int8_t *const *x, int h,
                     int32x4_t whole[][QUARTETS]) {
    int8x16_t vectors[MAX_TILE];
    for (int i = 0; i < n; i++) {
        vectors[i] = vld1q_s8(x[i] + HALF_BLOCK * h);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        for (int r = 0; r < QUARTETS; r++) {
            const int8x16_t rows = vld1q_s8(half->registers[4 * r + k]);
            for (int i = 0; i < n; i++) {
                whole[i][r] = add_dot_of_lane(whole[i][r], rows, vectors[i], k);
            }
        }
    }
}

INLINE void multiply_halves(const int n_halves, const int sums_of, const int n, const struct packed_half *halves,
                            const int8_t *const *x, const void *start, int32x4_t whole[][QUARTETS]) {
    (void)sums_of;
    for (int i = 0; i < n; i++) {
        for (int r = 0; r < QUARTETS; r++) {
            whole[i][r] = load_anew(start);
        }
    }
    add_half(n, &halves[0], x, 0, whole);
    if (n_halves > 1) {
        add_half(n, &halves[1], x, 1, whole);
    }
    for (int h = 2; h < n_halves; h++) {
        add_half(n, &halves[h], x, h, whole);
    }
}

#else

// Adds the products of sixteen numbers with x, two in each lane.
INLINE int16x8_t add_short_products(int16x8_t sum, const bool is_first, int8x16_t numbers, int8x16_t x) {
    const int8x8_t low = vget_low_s8(numbers), of_x = vget_low_s8(x);
    return vmlal_high_s8(is_first ? vmull_s8(low, of_x) : vmlal_s8(sum, low, of_x), numbers, x);
}

// Returns the products of a row's 16 n_halves numbers with x, in four sums.
INLINE int32x4_t products_of_row(const int n_halves, const int sums_of, const struct packed_half *halves, int row,
                                 const int8x16_t *x) {
    int32x4_t sum = {0};
    int16x8_t shorts = {0};
    for (int h = 0; h < n_halves; h++) {
        const int together = sums_of / 2;  // halves whose products fit
        shorts = add_short_products(shorts, h % together == 0, vld1q_s8(halves[h].registers[row]), x[h]);
        if (h % together == together - 1 || h == n_halves - 1) {
            sum = h < together ? vpaddlq_s16(shorts) : vpadalq_s16(sum, shorts);
        }
    }
    return sum;
}

INLINE void multiply_halves(const int n_halves, const int sums_of, const int n, const struct packed_half *halves,
                            const int8_t *const *x, const void *start, int32x4_t whole[][QUARTETS]) {
    for (int i = 0; i < n; i++) {
        int8x16_t vector[2 * SUPERBLOCK];
        for (int h = 0; h < n_halves; h++) {
            vector[h] = vld1q_s8(x[i] + HALF_BLOCK * h);
        }
        for (int r = 0; r < QUARTETS; r++) {
            int32x4_t rows[4];
            for (int k = 0; k < 4; k++) {
                rows[k] = products_of_row(n_halves, sums_of, halves, 4 * r + k, vector);
            }
            const int32x4_t sums = vpaddq_s32(vpaddq_s32(rows[0], rows[1]), vpaddq_s32(rows[2], rows[3]));
            whole[i][r] = vaddq_s32(sums, vld1q_s32(start));
        }
    }
}

#endif

#endif
