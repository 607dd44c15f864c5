// Makes steps of AdamW in every format and writes the weights, for test_adamw_kernels.py: N float32 of each format.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adamw.h"

enum { N = 3000, WHOLE = 3 * ADAMW_WIDE_BLOCK, N_COLUMNS = 3 * ADAMW_COLUMNS, STEPS = 40, FORMATS = 6 };

void dure_adamw(struct adamw_part *parts, int64_t n, _Atomic int64_t *next);

static uint32_t state = 1;

// Returns a number from -1 to 1.
static float any(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state / 2147483648.0f;
}

static uint16_t bfloat_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)(u >> 16);
}

static float float_of_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

// Returns where what value i lacks is, if state has 8 bits. The even ones of 32 are a row, the odd ones the next.
static int place_of_rest(int i) {
    const int block = i / ADAMW_WIDE_BLOCK * ADAMW_WIDE_BLOCK, within = i - block;
    const int row = within / 32 * 2 + within % 2, column = within % 32 / 2;
    return block + row / 4 * 4 * ADAMW_COLUMNS + 4 * column + row % 4;
}

static void compute(struct adamw_tensor *t, struct adamw_step *s, int pass) {
    // Two parts: nothing depends on how a tensor is cut.
    struct adamw_part parts[] = {
        {.tensor = t, .step = s, .first = 0, .n = 2 * ADAMW_WIDE_BLOCK, .pass = pass},
        {.tensor = t,
         .step = s,
         .first = 2 * ADAMW_WIDE_BLOCK,
         .n = N - 2 * ADAMW_WIDE_BLOCK,
         .pass = pass},
    };
    _Atomic int64_t next = 0;
    dure_adamw(parts, 2, &next);
}

static struct adamw_step constants(int step, float scale) {
    return (struct adamw_step){
        .beta1 = 0.9f,
        .beta2 = 0.999f,
        .rest1 = 0.1f,
        .rest2 = 0.001f,
        .step_size = (float)(0.01 / (1 - pow(0.9, step))),
        .root_scale = (float)(1 / sqrt(1 - pow(0.999, step))),
        .root_scale_before = step > 1 ? (float)(1 / sqrt(1 - pow(0.999, step - 1))) : 1,
        .eps = 1e-8f,
        .decay = 0.999f,
        .scale = scale,
    };
}

int main(void) {
    for (int format = 0; format < FORMATS; format++) {
        static float weights[N], gradient[N], first[WHOLE], second[WHOLE], scales[N_COLUMNS];
        static int16_t rest[WHOLE];
        static uint16_t bases[N_COLUMNS];
        static uint8_t moved[WHOLE / ADAMW_BLOCK];
        const int zero = format % 3 == ADAMW_F32_8BIT ? ADAMW_ZERO : 0;
        memset(rest, zero, sizeof rest);
        memset(first, zero, sizeof first);
        memset(second, 0, sizeof second);
        memset(scales, 0, sizeof scales);
        const int is_bf16 = format >= ADAMW_BF16_F32;
        for (int i = 0; i < N; i++) {
            const float x = any();
            is_bf16 ? (void)(((uint16_t *)weights)[i] = bfloat_of(x)) : (void)(weights[i] = x);
        }
        for (int i = 0; i < N_COLUMNS; i++) {
            bases[i] = ADAMW_SMALLEST_BASE;
        }
        struct adamw_tensor t = {weights, gradient, rest, first, second, scales, bases, moved, 7, 0, format, 0};
        for (int step = 1; step <= STEPS; step++) {
            for (int i = 0; i < N; i++) {
                const float g = any() * (i % 5 == 0 ? 1.0f : 0.01f);
                is_bf16 ? (void)(((uint16_t *)gradient)[i] = bfloat_of(g)) : (void)(gradient[i] = g);
            }
            t.turn = (uint32_t)step;
            struct adamw_step s = constants(step, step % 4 == 3 ? 0.5f : 1.0f);
            if (step < 20) {
                compute(&t, &s, ADAMW_WHOLE);
                continue;
            }
            compute(&t, &s, ADAMW_EARLY);
            if (step % 4 == 2) {
                compute(&t, &s, ADAMW_UNDO);
                compute(&t, &s, ADAMW_WHOLE);
            } else {
                compute(&t, &s, ADAMW_FINISH);
            }
        }
        for (int i = 0; i < N && is_bf16; i++) {
            static uint16_t upper[N];
            if (i == 0) {
                memcpy(upper, weights, sizeof upper);
            }
            const int32_t lower = format == ADAMW_BF16_F32    ? rest[i]
                                  : format == ADAMW_BF16_BF16 ? ((int8_t *)rest)[i] * 256
                                                              : ((uint8_t *)rest)[place_of_rest(i)] * 256 - 0x8000;
            weights[i] = float_of_bits(((uint32_t)upper[i] << 16) + (uint32_t)lower);
        }
        fwrite(weights, sizeof weights, 1, stdout);
    }
    return 0;
}
