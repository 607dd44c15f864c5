// Arithmetic on float32 that compilers vectorize.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

// e^x for x <= 0, to about the precision of float32. Below -87 (1e-38) it is what it is at -87.
static inline float exp_of_negative(float x) {
    const float t = (x < -87.0f ? -87.0f : x) * 1.44269504f;
    const float whole = rintf(t), f = (t - whole) * 0.69314718f;
    const float p =
        1.0f + f * (1.0f + f * (0.5f + f * (1.6666667e-1f +
                                            f * (4.1666667e-2f + f * (8.333333e-3f + f * 1.388889e-3f)))));
    return p * float_of((uint32_t)((int32_t)whole + 127) << 23);
}
