// A parameter of a model, what AdamW keeps for it, and the constants of one step. Python fills them in.

#pragma once

#include <stddef.h>
#include <stdint.h>

// What has a mark of its own. A last one that is not full is computed as if it were.
enum { ADAMW_BLOCK = 64 };

// The same where moments have 8 bits. It is a table of 64 rows and 16 columns; columns have scales of their own.
enum { ADAMW_WIDE_BLOCK = 1024, ADAMW_COLUMNS = 16 };

// What 8-bit state holds before the first step: `first`, `rest`; `second` holds zeros; `bases`.
enum { ADAMW_ZERO = 128, ADAMW_SMALLEST_BASE = 32 };

// How a parameter and its state lie in memory; the gradient is of the parameter's type.
enum adamw_format {
    ADAMW_F32_F32,   // parameter float32, moments float32
    ADAMW_F32_BF16,  // parameter float32, moments bfloat16
    ADAMW_F32_8BIT,
    ADAMW_BF16_F32,  // parameter bfloat16 and 16 further bits, which are a float32 together; moments float32
    ADAMW_BF16_BF16,  // parameter bfloat16 and 8 further bits; moments bfloat16
    ADAMW_BF16_8BIT,
};

enum adamw_pass {
    ADAMW_WHOLE,    // moments and weights, with the gradient's scale
    ADAMW_EARLY,    // the sum of squares; moments, with the gradient as it is, of blocks that it marks
    ADAMW_FINISH,   // what is left: weights, with the gradient's scale; blocks that are not marked as a whole
    ADAMW_UNDO,     // moments of marked blocks as they were
    ADAMW_SQUARES,  // the sum of squares alone
};

struct adamw_tensor {
    void *weights;
    const void *gradient;
    // 8-bit state is whole blocks, and in an order of its own; all else lies as the weights do.
    void *rest;       // int16_t, int8_t or 8-bit state: what a bfloat16 weight lacks
    void *first;      // moment: float, bfloat16, or 8 bits of the direction of the step
    void *second;     // moment: float, bfloat16, or 8 bits of its logarithm, roughly
    float *scales;    // of `first`, one for each column of a block; 8 bits only, as the next
    uint16_t *bases;  // of `second`
    uint8_t *moved;   // marks of ADAMW_EARLY, one a block
    uint32_t seed;    // of what is rounded at random
    uint32_t turn;    // the number of this step, for the same
    int32_t format;   // enum adamw_format
    int32_t unused;
};

struct adamw_step {
    float beta1, beta2, rest1, rest2;  // rest: 1 - beta, from doubles
    float step_size;                   // learning rate / (1 - beta1^step)
    float root_scale;                  // 1 / sqrt(1 - beta2^step)
    float root_scale_before;           // of the step before this
    float eps;
    float decay;  // 1 - learning rate * weight decay
    float scale;  // of the gradient: below one if it is clipped
};

// A part of a tensor that one thread works on without interruption; first is a multiple of the block.
struct adamw_part {
    const struct adamw_tensor *tensor;
    const struct adamw_step *step;
    size_t first, n;
    double squares;    // out: the sum of the gradient's squares, if the pass has it
    int64_t left_out;  // out: blocks left as they were, as their gradient is not finite
    int32_t pass;      // enum adamw_pass
    int32_t unused;
};
