// How products with few vectors read weights from memory: once for all vectors, and asked for ahead.

#pragma once

#include <stdbool.h>

#include "product_simd.h"

enum {
    MAX_VECTORS = INT_LANES == 16 ? 8 : 5,  // that share what is read; more are for matmul.c
    PREFETCH_AHEAD = 4608                   // bytes
};

// Prefetches what follows n_bytes of weights at some distance. A core that computes between two reads does not
// ask early enough by itself.
INLINE void prefetch_at_distance(const void *from, const int n_bytes, const int distance) {
    for (int i = 0; i < n_bytes; i += 64) {
        _mm_prefetch((const char *)from + distance + i, _MM_HINT_T0);
    }
}

INLINE void prefetch_ahead(const void *from, const int n_bytes) {
    prefetch_at_distance(from, n_bytes, PREFETCH_AHEAD);
}

// Tells whether what is prefetched lies past the end of a row, if n_streams rows of n_blocks blocks are read at
// once, each at its part of the distance.
INLINE bool past_end(int64_t b, int64_t n_blocks, const int block_bytes, const int n_streams) {
    return b + PREFETCH_AHEAD / n_streams / block_bytes >= n_blocks;
}
