// Picks the k largest logits of a slice of the vocabulary, and sums up the slice.
//
// Knows: logits as numbers with ids. Refuses to know: ranks, sampling, the rest of the vocabulary.

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "attributes.h"
#include "numbers.h"

enum { STRIP = 64 };  // logits that are looked at together: enough for the widest registers

static float max_of(const float *x, int n) {
    float strip[STRIP], max = -INFINITY;
    for (int j = 0; j < STRIP; j++) {
        strip[j] = -INFINITY;
    }
    int i = 0;
    for (; i + STRIP <= n; i += STRIP) {
        for (int j = 0; j < STRIP; j++) {
            strip[j] = x[i + j] > strip[j] ? x[i + j] : strip[j];
        }
    }
    for (int j = 0; j < STRIP; j++) {
        max = strip[j] > max ? strip[j] : max;
    }
    for (; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

// Returns the first index from i on at which x[n] is above a bound; n if there is none.
static int next_above(const float *x, int n, int i, float bound) {
    for (; i + STRIP <= n; i += STRIP) {
        int found = 0;
        for (int j = 0; j < STRIP; j++) {
            found |= x[i + j] > bound;
        }
        if (found) {
            break;
        }
    }
    while (i < n && !(x[i] > bound)) {
        i++;
    }
    return i;
}

// Returns the first index of the maximum of x[n]; 0 if no number is above minus infinity.
static int32_t argmax(const float *x, int n) {
    const int i = next_above(x, n, 0, nextafterf(max_of(x, n), -INFINITY));
    return i < n ? i : 0;
}

// Restores the order of a heap[n] of indices below place i: the smallest logit first, of equal ones the higher
// index.
static void sift_down(const float *x, int32_t *heap, int n, int i) {
    for (;;) {
        int least = i;
        for (int c = 2 * i + 1; c <= 2 * i + 2 && c < n; c++) {
            const float a = x[heap[c]], b = x[heap[least]];
            if (a < b || (a == b && heap[c] > heap[least])) {
                least = c;
            }
        }
        if (least == i) {
            return;
        }
        const int32_t t = heap[i];
        heap[i] = heap[least];
        heap[least] = t;
        i = least;
    }
}

static void top_k_by_heap(const float *x, int n, int k, int32_t *ids) {
    for (int i = 0; i < k; i++) {
        ids[i] = i;
    }
    for (int i = k / 2 - 1; i >= 0; i--) {
        sift_down(x, ids, k, i);
    }
    for (int i = k; (i = next_above(x, n, i, x[ids[0]])) < n; i++) {
        ids[0] = i;
        sift_down(x, ids, k, 0);
    }
}

// Returns log(sum(exp(x))) of x[n], whose maximum is max.
static float log_sum_exp(const float *x, int n, float max) {
    enum { STRIDE = 32 * STRIP };  // few enough for sums in 32 bits
    double sum = 0;
    int i = 0;
    while (i + STRIP <= n) {
        float strip[STRIP] = {0};
        for (const int stop = n - i < STRIDE ? n : i + STRIDE; i + STRIP <= stop; i += STRIP) {
            for (int j = 0; j < STRIP; j++) {
                strip[j] += exp_of_negative(x[i + j] - max);
            }
        }
        for (int j = 0; j < STRIP; j++) {
            sum += strip[j];
        }
    }
    for (; i < n; i++) {
        sum += exp_of_negative(x[i] - max);
    }
    return (float)(max + log(sum));
}

// Picks the k largest of logits[n], 1 <= k <= n, in no order; of equal ones the lower id. ids: [k], counted
// from first_id. top: [k], their logits. Returns log(sum(exp(logits))) if it is wanted, else NaN.
EXPORT float dure_top_k(const float *logits, int n, int k, int first_id, int32_t *ids, float *top,
                        bool wants_log_sum_exp) {
    if (k == 1) {
        ids[0] = argmax(logits, n);
    } else {
        top_k_by_heap(logits, n, k, ids);
    }
    for (int i = 0; i < k; i++) {
        top[i] = logits[ids[i]];
        ids[i] += first_id;
    }
    return wants_log_sum_exp ? log_sum_exp(logits, n, max_of(logits, n)) : NAN;
}
