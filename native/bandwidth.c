// Measures how fast threads read memory together.

#include <pthread.h>
#include <stddef.h>

#include "allreduce.h"
#include "attributes.h"
#include "clock.h"

enum { SUMS = 64 };  // that are independent of each other: adding must not be slower than reading

struct reader {
    const float *x;
    size_t n;
    float sum;
};

static void *read_all(void *user) {
    struct reader *const r = user;
    float sums[SUMS] = {0};
    for (size_t i = 0; i + SUMS <= r->n; i += SUMS) {
        for (int j = 0; j < SUMS; j++) {
            sums[j] += r->x[i + j];
        }
    }
    for (int j = 0; j < SUMS; j++) {
        r->sum += sums[j];
    }
    return NULL;
}

// Returns the bytes a second that n_threads read together, each its part of x[n]; 0 if it failed. All ranks
// call it at once, and begin at once; a process that does not all-reduce measures alone.
EXPORT double dure_read_bytes_per_second(const float *x, size_t n, int n_threads) {
    struct reader readers[n_threads];
    pthread_t threads[n_threads];
    const size_t part = n / (size_t)n_threads;
    wait_for_all_ranks();
    const double start = clock_s();
    int n_begun = 0;
    for (; n_begun < n_threads; n_begun++) {
        readers[n_begun] = (struct reader){x + part * (size_t)n_begun, part, 0};
        if (pthread_create(&threads[n_begun], NULL, read_all, &readers[n_begun]) != 0) {
            break;
        }
    }
    for (int i = 0; i < n_begun; i++) {
        pthread_join(threads[i], NULL);
    }
    const double seconds = clock_s() - start;
    return n_begun == n_threads ? (double)(part * sizeof *x) * n_threads / seconds : 0;
}
