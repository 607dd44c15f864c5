// How products with few vectors read weights from memory: once for all vectors, and asked for ahead.

#pragma once

#include "product_simd.h"

enum {
    MAX_VECTORS = INT_LANES == 16 ? 8 : 5,  // that share what is read; more are for matmul.c
    PREFETCH_AHEAD = 4608                   // bytes
};

// Prefetches what follows n_bytes of weights at some distance. A core that computes between two reads does not
// ask early enough by itself.
INLINE void prefetch_ahead(const void *from, const int n_bytes) {
    for (int i = 0; i < n_bytes; i += 64) {
        _mm_prefetch((const char *)from + PREFETCH_AHEAD + i, _MM_HINT_T0);
    }
}
