// How the threads of a node share its work: whoever is free takes the next part.
//
// Knows: counting. Refuses to know: what a part is.

#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LEAST_CLAIM = 262144 };  // bytes that a thread takes at once, if there are as many

// Of the current node.
struct claims {
    atomic_llong claimed;
    atomic_int done;  // threads that left it
};

struct claimed_range {
    int64_t first, stop;
};

// Claims what a thread computes next of n parts: many at first and ever fewer, so that unlike cores, and cores
// that others use as well, end at the same time. Returns false if nothing is left.
static inline bool claim_parts(struct claims *c, int64_t n, size_t part_bytes, int n_threads,
                               struct claimed_range *out) {
    const int64_t least = part_bytes < LEAST_CLAIM ? (int64_t)(LEAST_CLAIM / part_bytes) : 1;
    long long first = atomic_load(&c->claimed);
    int64_t stop;
    do {
        const int64_t left = n - first, some = n_threads > 1 ? left * 3 / (4 * n_threads) : left;
        const int64_t wanted = some > least ? some : least;
        stop = first + (wanted < left ? wanted : left);
    } while (!atomic_compare_exchange_weak(&c->claimed, &first, stop));
    *out = (struct claimed_range){first, stop};
    return first < stop;
}

// The last thread resets the claims for the next node, which llama.cpp lets nobody begin before all have left.
static inline void leave_claims(struct claims *c, int n_threads) {
    if (atomic_fetch_add(&c->done, 1) + 1 == n_threads) {
        atomic_store(&c->claimed, 0);
        atomic_store(&c->done, 0);
    }
}
