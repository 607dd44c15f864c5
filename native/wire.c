// Encodes partial vectors for the wire, and adds what was encoded.
//
// Knows: the two formats, 8-bit blocks and float32. Refuses to know: who sends what to whom.
//
// A product of an 8-bit integer and a bfloat16 scale is exact in float32, so machines that fuse multiply and
// add get the same bits as machines that do not.

#include "wire.h"

#include <math.h>
#include <string.h>

#include "numbers.h"

// 32 values in 34 bytes: value = scale * q.
struct wire_block {
    uint16_t scale;  // bfloat16, rounded up, so that |q| <= 127
    int8_t q[WIRE_BLOCK];
};

static void encode_block(const float *x, struct wire_block *out) {
    uint32_t max = 0;  // of |x|, compared as integers: the same order, and it vectorizes
    for (int i = 0; i < WIRE_BLOCK; i++) {
        const uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        max = u > max ? u : max;
    }
    if (max >= 0x7f800000u) {  // an infinity or a NaN must not vanish
        out->scale = 0x7fc0;
        memset(out->q, 1, WIRE_BLOCK);
        return;
    }
    const uint32_t scale = (bits_of(float_of(max) / 127.0f) + 0xffffu) >> 16;
    const float d = float_of(scale << 16);
    const float inverse = d >= 1e-37f ? 1.0f / d : 0.0f;
    out->scale = (uint16_t)scale;
    for (int i = 0; i < WIRE_BLOCK; i++) {
        out->q[i] = (int8_t)(int32_t)rintf(x[i] * inverse);
    }
}

static void encode_q8(const float *x, struct wire_block *out, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; b++) {
        encode_block(x + b * WIRE_BLOCK, &out[b]);
    }
}

static void add_q8(float *sum, const struct wire_block *in, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; b++, sum += WIRE_BLOCK) {
        const float d = float_of((uint32_t)in[b].scale << 16);
        for (int i = 0; i < WIRE_BLOCK; i++) {
            sum[i] += d * (float)in[b].q[i];
        }
    }
}

static void add_f32(float *sum, const float *in, size_t n) {
    for (size_t i = 0; i < n; i++) {
        sum[i] += in[i];
    }
}

size_t wire_block_bytes(enum wire_format format) {
    return format == WIRE_Q8 ? sizeof(struct wire_block) : WIRE_BLOCK * sizeof(float);
}

void encode_wire_blocks(enum wire_format format, const float *x, void *out, size_t n_blocks) {
    if (format == WIRE_Q8) {
        encode_q8(x, out, n_blocks);
    } else {
        memcpy(out, x, n_blocks * WIRE_BLOCK * sizeof(float));
    }
}

void add_wire_blocks(enum wire_format format, float *sum, const void *in, size_t n_blocks) {
    if (format == WIRE_Q8) {
        add_q8(sum, in, n_blocks);
    } else {
        add_f32(sum, in, n_blocks * WIRE_BLOCK);
    }
}

void round_to_wire(enum wire_format format, float *x, size_t n_blocks) {
    for (size_t b = 0; format == WIRE_Q8 && b < n_blocks; b++, x += WIRE_BLOCK) {
        struct wire_block block;
        encode_block(x, &block);
        memset(x, 0, WIRE_BLOCK * sizeof *x);
        add_q8(x, &block, 1);
    }
}
