#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "exchange.h"
#include "wire.h"

// A vector that is summed over all ranks, in place.
struct allreduce {
    struct exchange *exchange;
    enum wire_format wire;
    float *x;         // [n_blocks * WIRE_BLOCK] this rank's partial vector, then the sum
    size_t n_blocks;  // as many on every rank
};

// Returns the number of pieces that n_blocks travel in.
size_t n_pieces_of(enum wire_format wire, size_t n_blocks);

// Every rank sends its whole vector to all, and adds all vectors (one-shot). Returns false if it failed.
// a->x: NULL sends bytes without meaning, to measure the exchange alone.
bool allreduce_in_one_phase(const struct allreduce *a);

// Every rank sums a slice, then sends the sum to all (reduce-scatter, then all-gather; two-shot): fewer bytes,
// one more round trip. Returns false if it failed.
bool allreduce_in_two_phases(const struct allreduce *a);
