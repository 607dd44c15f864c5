// Measures the triad a = b + s * c over MILLIONS of float32 with THREADS threads, for optimizer_step.py.
//
// Writes GB/s, three numbers of four bytes counted for each value, as STREAM counts: the best of some runs with
// ordinary stores, which read what they overwrite, and with stores that pass the caches by, if there are any.

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

enum { MOST_THREADS = 64, RUNS = 7 };

struct part {
    float *a;
    const float *b, *c;
    size_t n;
    int passes_caches;
};

static void *triad(void *user) {
    const struct part p = *(struct part *)user;
    size_t i = 0;
#if defined(__AVX512F__)
    for (; p.passes_caches && i + 16 <= p.n; i += 16) {
        const __m512 x = _mm512_fmadd_ps(_mm512_set1_ps(1.5f), _mm512_loadu_ps(p.c + i), _mm512_loadu_ps(p.b + i));
        _mm512_stream_ps(p.a + i, x);
    }
#endif
    for (; i < p.n; i++) {
        p.a[i] = p.b[i] + 1.5f * p.c[i];
    }
    return NULL;
}

static float *floats(size_t n) {
    float *x = aligned_alloc(64, n * sizeof *x);
    for (size_t i = 0; x && i < n; i++) {
        x[i] = (float)(i % 97);
    }
    return x;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    const int n_threads = argc > 2 ? atoi(argv[2]) : 1;
    const size_t n = (argc > 1 ? (size_t)atol(argv[1]) : 100) * 1000000 / 1024 * 1024;
    float *const a = floats(n), *const b = floats(n), *const c = floats(n);
    if (!a || !b || !c || n_threads < 1 || n_threads > MOST_THREADS) {
        return 1;
    }
    double best = 0;
    for (int run = 0; run < RUNS; run++) {
        for (int kind = 0; kind < 2; kind++) {
            struct part parts[MOST_THREADS];
            pthread_t threads[MOST_THREADS];
            const size_t each = n / (size_t)n_threads / 16 * 16;
            const double begun = now();
            for (int i = 0; i < n_threads; i++) {
                const size_t first = each * (size_t)i;
                parts[i] = (struct part){a + first, b + first, c + first, each, kind};
                pthread_create(&threads[i], NULL, triad, &parts[i]);
            }
            for (int i = 0; i < n_threads; i++) {
                pthread_join(threads[i], NULL);
            }
            const double rate = 12.0 * (double)each * n_threads / (now() - begun) / 1e9;
            best = rate > best ? rate : best;
        }
    }
    printf("%.2f\n", best);
}
