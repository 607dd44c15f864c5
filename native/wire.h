#pragma once

#include <stddef.h>
#include <stdint.h>

// How partial vectors travel. Python passes the same numbers.
enum wire_format { WIRE_Q8 = 0, WIRE_F32 = 1 };

enum { WIRE_BLOCK = 32 };  // values of a block, in either format

// Returns the bytes of a block.
size_t wire_block_bytes(enum wire_format format);

// Encodes x[n_blocks * WIRE_BLOCK]. out: [n_blocks * wire_block_bytes(format)].
void encode_wire_blocks(enum wire_format format, const float *x, void *out, size_t n_blocks);

// Adds encoded blocks to sum[n_blocks * WIRE_BLOCK].
void add_wire_blocks(enum wire_format format, float *sum, const void *in, size_t n_blocks);

// Rounds x[n_blocks * WIRE_BLOCK] to what it is after it travelled.
void round_to_wire(enum wire_format format, float *x, size_t n_blocks);
