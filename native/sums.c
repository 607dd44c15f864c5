// The sums: what makes the shards of a model one model.
//
// Knows: where llama.cpp's graph holds a partial vector (by the names it is given), how to exchange
// it with all ranks through MPI, and how to pick the best logits of a slice of the vocabulary.
// Refuses to know: models, shards, steps, requests. Python decides; this file only sums.
//
// A sum is the same on every rank to the last bit: every rank adds the same encoded vectors, its own
// included, in the order of the ranks. A product of an 8-bit integer and a bfloat16 scale is exact in
// float32, so it does not matter whether a machine fuses multiply and add.

#include <ggml-backend.h>
#include <ggml.h>
#include <math.h>
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { BLOCK = 32, MAX_POINTS = 8, MAX_NAME = 64, TAG = 7, SPINS_BETWEEN_CHECKS = 64 };
enum wire { WIRE_Q8 = 0, WIRE_F32 = 1 };
enum status { OK = 0, DEADLINE = 1, MPI_FAILED = 2, BAD_TENSOR = 3, NO_MEMORY = 4 };

// 32 values on the wire: value = scale * q. 34 bytes.
struct q8_block {
    uint16_t scale;  // bfloat16, rounded up, so that |q| <= 127
    int8_t q[BLOCK];
};

struct point {
    char name[MAX_NAME];
    bool is_weight;  // suffix of the weight a MUL_MAT reads, else prefix of the node's own name
};

// What happened since sums_begin. Read by Python through the same layout.
struct sums_stats {
    double sync_s;
    double bytes_sent;
    int64_t n_sums;
    int32_t status;
    int32_t waiting_for;  // with DEADLINE: the first rank nothing came from, or -1
};

// When one sum came how far, by MPI_Wtime. Read by Python through the same layout.
struct sum_times {
    double begun, encoded, arrived, ended;
};

static struct {
    MPI_Comm comm;
    int rank, n_ranks;
    enum wire wire;
    bool staged;             // treat every tensor as if it were in device memory (tests)
    double two_phase_above;  // bytes of one encoded vector; above it: reduce-scatter, then all-gather
    double wait_s;           // no rank waits longer than this for another
    struct point points[MAX_POINTS];
    int n_points;
    struct sums_stats stats;
    MPI_Request *requests;
    uint8_t *sent, *received;
    float *values;
    size_t sent_cap, received_cap, values_cap;
    struct sum_times *trace;  // of the first sums since sums_begin; NULL where nobody asks
    int64_t trace_cap;
} g;

// The times of the sum that is being computed; a place that nobody reads where nobody asks.
static struct sum_times *times(void) {
    static struct sum_times unread;
    const bool is_kept = g.trace && g.stats.n_sums >= 1 && g.stats.n_sums <= g.trace_cap;
    return is_kept ? &g.trace[g.stats.n_sums - 1] : &unread;
}

// ---------------------------------------------------------------- encoding

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void encode_q8(const float *x, struct q8_block *out, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; b++, x += BLOCK) {
        uint32_t largest = 0;  // of |x|, compared as integers: the same order, and it vectorizes
        for (int i = 0; i < BLOCK; i++) {
            const uint32_t u = bits_of(x[i]) & 0x7fffffffu;
            largest = u > largest ? u : largest;
        }
        if (largest >= 0x7f800000u) {  // an infinity or a NaN must not vanish
            out[b].scale = 0x7fc0;
            memset(out[b].q, 1, BLOCK);
            continue;
        }
        const uint32_t scale = (bits_of(float_of(largest) / 127.0f) + 0xffffu) >> 16;
        const float d = float_of(scale << 16);
        const float inverse = d >= 1e-37f ? 1.0f / d : 0.0f;
        out[b].scale = (uint16_t)scale;
        for (int i = 0; i < BLOCK; i++) {
            out[b].q[i] = (int8_t)(int32_t)rintf(x[i] * inverse);
        }
    }
}

static void add_q8(float *sum, const struct q8_block *in, size_t n_blocks) {
    for (size_t b = 0; b < n_blocks; b++, sum += BLOCK) {
        const float d = float_of((uint32_t)in[b].scale << 16);
        for (int i = 0; i < BLOCK; i++) {
            sum[i] += d * (float)in[b].q[i];
        }
    }
}

static size_t block_bytes(void) {
    return g.wire == WIRE_Q8 ? sizeof(struct q8_block) : BLOCK * sizeof(float);
}

static void encode(const float *x, void *out, size_t n_blocks) {
    if (g.wire == WIRE_Q8) {
        encode_q8(x, out, n_blocks);
    } else {
        memcpy(out, x, n_blocks * BLOCK * sizeof(float));
    }
}

static void add(float *sum, const void *in, size_t n_blocks) {
    if (g.wire == WIRE_Q8) {
        add_q8(sum, in, n_blocks);
    } else {
        const float *x = in;
        for (size_t i = 0; i < n_blocks * BLOCK; i++) {
            sum[i] += x[i];
        }
    }
}

// ---------------------------------------------------------------- exchanging

static bool grow(void *buffer, size_t *cap, size_t bytes) {
    if (bytes <= *cap) {
        return true;
    }
    void **p = buffer, *larger = realloc(*p, bytes);
    if (larger == NULL) {
        g.stats.status = NO_MEMORY;
        return false;
    }
    *p = larger;
    *cap = bytes;
    return true;
}

static int first_unfinished(int n_receives) {
    for (int i = 0; i < n_receives; i++) {
        if (g.requests[i] != MPI_REQUEST_NULL) {
            return (g.rank + 1 + i) % g.n_ranks;
        }
    }
    return -1;
}

// The receives come first in g.requests, from rank+1, rank+2, ...
static bool wait_for(int n_requests, int n_receives) {
    const double give_up = MPI_Wtime() + g.wait_s;
    for (;;) {
        for (int spin = 0; spin < SPINS_BETWEEN_CHECKS; spin++) {
            int done = 0;
            if (MPI_Testall(n_requests, g.requests, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS) {
                g.stats.status = MPI_FAILED;
                return false;
            }
            if (done) {
                return true;
            }
        }
        sched_yield();  // costs nothing where each rank has a core, and much is won where it has not
        if (MPI_Wtime() > give_up) {
            for (int i = 0, done; i < n_receives; i++) {
                MPI_Test(&g.requests[i], &done, MPI_STATUS_IGNORE);
            }
            g.stats.status = DEADLINE;
            g.stats.waiting_for = first_unfinished(n_receives);
            return false;
        }
    }
}

struct span {
    size_t start, count;  // in blocks
};

static struct span slice_of(int rank, size_t n_blocks) {
    const size_t start = n_blocks * (size_t)rank / (size_t)g.n_ranks;
    const size_t stop = n_blocks * ((size_t)rank + 1) / (size_t)g.n_ranks;
    return (struct span){start, stop - start};
}

// Sends `out(p)` to every other rank p and receives `in(p)` from it, all at once.
static bool swap_with_all(const struct span *out, const uint8_t *from, const struct span *in,
                          uint8_t *to, size_t slot) {
    const size_t unit = block_bytes();
    int n = 0;
    for (int i = 1; i < g.n_ranks; i++) {
        const int p = (g.rank + i) % g.n_ranks;
        uint8_t *place = to + (size_t)p * slot + in[p].start * unit;
        if (MPI_Irecv(place, (int)(in[p].count * unit), MPI_BYTE, p, TAG, g.comm,
                      &g.requests[n++]) != MPI_SUCCESS) {
            g.stats.status = MPI_FAILED;
            return false;
        }
    }
    const int n_receives = n;
    for (int i = 1; i < g.n_ranks; i++) {
        const int p = (g.rank + i) % g.n_ranks;
        if (MPI_Isend(from + out[p].start * unit, (int)(out[p].count * unit), MPI_BYTE, p, TAG,
                      g.comm, &g.requests[n++]) != MPI_SUCCESS) {
            g.stats.status = MPI_FAILED;
            return false;
        }
        g.stats.bytes_sent += (double)(out[p].count * unit);
    }
    return wait_for(n, n_receives);
}

// Adds blocks [span.start, +count) of all ranks' vectors, in the order of the ranks, into `sum`.
static void add_all(float *sum, struct span span, const uint8_t *received, size_t slot) {
    const size_t unit = block_bytes();
    memset(sum, 0, span.count * BLOCK * sizeof(float));
    for (int p = 0; p < g.n_ranks; p++) {
        const uint8_t *vector = p == g.rank ? g.sent : received + (size_t)p * slot;
        add(sum, vector + span.start * unit, span.count);
    }
}

static bool sum_one_phase(float *x, size_t n_blocks) {
    struct span spans[g.n_ranks];
    for (int p = 0; p < g.n_ranks; p++) {
        spans[p] = (struct span){0, n_blocks};
    }
    const size_t slot = n_blocks * block_bytes();
    if (!swap_with_all(spans, g.sent, spans, g.received, slot)) {
        return false;
    }
    times()->arrived = MPI_Wtime();
    add_all(x, spans[0], g.received, slot);
    return true;
}

// Each rank sums its own slice, then hands the sum to all: fewer bytes, one more round trip.
static bool sum_two_phases(float *x, size_t n_blocks) {
    const size_t unit = block_bytes(), slot = n_blocks * unit;
    struct span slices[g.n_ranks], mine[g.n_ranks];
    for (int p = 0; p < g.n_ranks; p++) {
        slices[p] = slice_of(p, n_blocks);
        mine[p] = slice_of(g.rank, n_blocks);
    }
    const struct span own = mine[0];
    if (!swap_with_all(slices, g.sent, mine, g.received, slot)) {
        return false;
    }
    add_all(x + own.start * BLOCK, own, g.received, slot);
    encode(x + own.start * BLOCK, g.sent + own.start * unit, own.count);
    if (!swap_with_all(mine, g.sent, slices, g.received, 0)) {
        return false;
    }
    times()->arrived = MPI_Wtime();
    memcpy(g.received + own.start * unit, g.sent + own.start * unit, own.count * unit);
    memset(x, 0, n_blocks * BLOCK * sizeof(float));
    add(x, g.received, n_blocks);
    return true;
}

// Sums x[n_blocks * BLOCK] over all ranks, in place.
static bool sum_blocks(float *x, size_t n_blocks) {
    const size_t bytes = n_blocks * block_bytes();
    if (!grow(&g.sent, &g.sent_cap, bytes) ||
        !grow(&g.received, &g.received_cap, bytes * (size_t)g.n_ranks)) {
        return false;
    }
    encode(x, g.sent, n_blocks);
    times()->encoded = MPI_Wtime();
    const bool two = g.n_ranks > 2 && (double)bytes > g.two_phase_above;
    return two ? sum_two_phases(x, n_blocks) : sum_one_phase(x, n_blocks);
}

static bool sum_tensor(struct ggml_tensor *t) {
    if (t->type != GGML_TYPE_F32 || !ggml_is_contiguous(t)) {
        g.stats.status = BAD_TENSOR;
        return false;
    }
    const size_t n = (size_t)ggml_nelements(t), n_blocks = (n + BLOCK - 1) / BLOCK;
    const bool host = !g.staged && (t->buffer == NULL || ggml_backend_buffer_is_host(t->buffer));
    if (host && n % BLOCK == 0) {
        return sum_blocks(t->data, n_blocks);
    }
    if (!grow(&g.values, &g.values_cap, n_blocks * BLOCK * sizeof(float))) {
        return false;
    }
    memset(g.values + n, 0, (n_blocks * BLOCK - n) * sizeof(float));
    ggml_backend_tensor_get(t, g.values, 0, n * sizeof(float));
    if (!sum_blocks(g.values, n_blocks)) {
        return false;
    }
    ggml_backend_tensor_set(t, g.values, 0, n * sizeof(float));
    return true;
}

// ---------------------------------------------------------------- llama.cpp's callback

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && memcmp(s + n - m, end, m) == 0;
}

static bool is_point(const struct ggml_tensor *t) {
    for (int i = 0; i < g.n_points; i++) {
        const struct point *p = &g.points[i];
        if (p->is_weight ? t->op == GGML_OP_MUL_MAT && ends_with(t->src[0]->name, p->name)
                         : strncmp(t->name, p->name, strlen(p->name)) == 0) {
            return true;
        }
    }
    return false;
}

EXPORT bool dure_sums_callback(struct ggml_tensor *t, bool ask, void *user) {
    (void)user;
    if (ask) {
        return g.stats.status == OK && is_point(t);
    }
    if (g.stats.status != OK) {
        return false;
    }
    g.stats.n_sums++;
    if (ggml_nelements(t) == 0) {  // of a last layer when no logits are wanted
        return true;
    }
    struct sum_times *const now = times();
    const double start = now->begun = MPI_Wtime();
    const bool ok = sum_tensor(t);
    now->ended = MPI_Wtime();
    g.stats.sync_s += now->ended - start;
    return ok;
}

// ---------------------------------------------------------------- called from Python

// points: lines "=suffix of a weight" or "^prefix of a node". Needs MPI_Init to have been called.
EXPORT int dure_sums_start(const char *points, int wire, double two_phase_above, double wait_s,
                           int staged) {
    g.n_points = 0;
    for (const char *p = points; *p;) {
        const size_t n = strcspn(p, "\n");
        if (g.n_points == MAX_POINTS || n < 2 || n > MAX_NAME) {
            return BAD_TENSOR;
        }
        struct point *point = &g.points[g.n_points++];
        point->is_weight = p[0] == '=';
        memcpy(point->name, p + 1, n - 1);
        point->name[n - 1] = 0;
        p += n + (p[n] == '\n');
    }
    if (MPI_Comm_dup(MPI_COMM_WORLD, &g.comm) != MPI_SUCCESS) {
        return MPI_FAILED;
    }
    MPI_Comm_set_errhandler(g.comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(g.comm, &g.rank);
    MPI_Comm_size(g.comm, &g.n_ranks);
    g.requests = calloc((size_t)g.n_ranks * 2, sizeof *g.requests);
    g.wire = wire;
    g.two_phase_above = two_phase_above;
    g.wait_s = wait_s;
    g.staged = staged != 0;
    return g.requests ? OK : NO_MEMORY;
}

// From now on the times of the first n sums of a step are kept; 0 keeps none. Returns a status.
EXPORT int dure_sums_trace(int64_t n) {
    free(g.trace);
    g.trace = n ? calloc((size_t)n, sizeof *g.trace) : NULL;
    g.trace_cap = g.trace ? n : 0;
    return n && !g.trace ? NO_MEMORY : OK;
}

// The times of the sums since sums_begin, at most as many as are kept; returns how many.
EXPORT int64_t dure_sums_times(struct sum_times *out) {
    const int64_t n = g.stats.n_sums < g.trace_cap ? g.stats.n_sums : g.trace_cap;
    memcpy(out, g.trace, (size_t)n * sizeof *out);
    return n;
}

EXPORT void dure_sums_begin(void) { g.stats = (struct sums_stats){.waiting_for = -1}; }

EXPORT void dure_sums_end(struct sums_stats *stats) { *stats = g.stats; }

// The sum of x[n] over all ranks, in place, as the callback does it. Returns a status.
EXPORT int dure_sums_sum(float *x, size_t n) {
    if (n % BLOCK != 0) {
        return BAD_TENSOR;
    }
    sum_blocks(x, n / BLOCK);
    return g.stats.status;
}

// Mean seconds of one exchange of n_bytes with every other rank, without encoding or adding.
EXPORT double dure_exchange_seconds(size_t n_bytes, int repeats) {
    const size_t n_blocks = n_bytes / block_bytes(), slot = n_blocks * block_bytes();
    struct span spans[g.n_ranks];
    for (int p = 0; p < g.n_ranks; p++) {
        spans[p] = (struct span){0, n_blocks};
    }
    if (!grow(&g.sent, &g.sent_cap, slot) ||
        !grow(&g.received, &g.received_cap, slot * (size_t)g.n_ranks)) {
        return NAN;
    }
    memset(g.sent, 0, slot);
    MPI_Barrier(g.comm);
    const double start = MPI_Wtime();
    for (int i = 0; i < repeats; i++) {
        if (!swap_with_all(spans, g.sent, spans, g.received, slot)) {
            return NAN;
        }
    }
    return (MPI_Wtime() - start) / repeats;
}

// e^x for x <= 0 to about the precision of float32, in a form that compilers vectorize.
static inline float exp_of_negative(float x) {
    const float t = (x < -87.0f ? -87.0f : x) * 1.44269504f;
    const float whole = rintf(t), f = (t - whole) * 0.69314718f;
    const float p =
        1.0f +
        f * (1.0f +
             f * (0.5f + f * (1.6666667e-1f + f * (4.1666667e-2f + f * (8.333333e-3f + f * 1.388889e-3f)))));
    return p * float_of((uint32_t)((int32_t)whole + 127) << 23);
}

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

// The first i with x[i] == value, or 0.
static int32_t first_equal(const float *x, int n, float value) {
    enum { STRIDE = 64 };
    int i = 0;
    for (int found = 0; i + STRIDE <= n; i += STRIDE) {
        for (int j = 0; j < STRIDE; j++) {
            found |= x[i + j] == value;
        }
        if (found) {
            break;
        }
    }
    for (; i < n; i++) {
        if (x[i] == value) {
            return i;
        }
    }
    return 0;
}

static void best_by_heap(const float *x, int n, int k, int32_t *ids) {
    for (int i = 0; i < k; i++) {
        ids[i] = i;
    }
    for (int i = k / 2 - 1; i >= 0; i--) {
        sift_down(x, ids, k, i);
    }
    for (int i = k; i < n; i++) {
        if (x[i] > x[ids[0]]) {
            ids[0] = i;
            sift_down(x, ids, k, 0);
        }
    }
}

// log(sum(exp(x))) of x[n], whose largest is max.
static float log_sum_exp(const float *x, int n, float max) {
    double sum = 0;
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        float e[16], part = 0;
        for (int j = 0; j < 16; j++) {
            e[j] = exp_of_negative(x[i + j] - max);
        }
        for (int j = 0; j < 16; j++) {
            part += e[j];
        }
        sum += part;
    }
    for (; i < n; i++) {
        sum += exp_of_negative(x[i] - max);
    }
    return (float)(max + log(sum));
}

static float largest(const float *x, int n) {
    float lanes[16], max = -INFINITY;
    for (int j = 0; j < 16; j++) {
        lanes[j] = -INFINITY;
    }
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) {
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
        }
    }
    for (int j = 0; j < 16; j++) {
        max = lanes[j] > max ? lanes[j] : max;
    }
    for (; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

// The k best of x[n] (ids in no order; of equals the lower id), 1 <= k <= n.
// Returns log(sum(exp(x))) if it is wanted, else NaN.
EXPORT float dure_best(const float *x, int n, int k, int32_t *ids, int want_sum) {
    const float max = k == 1 || want_sum ? largest(x, n) : 0.0f;
    if (k == 1) {
        ids[0] = first_equal(x, n, max);
    } else {
        best_by_heap(x, n, k, ids);
    }
    return want_sum ? log_sum_exp(x, n, max) : NAN;
}

// ---------------------------------------------------------------- memory

struct reader {
    const float *x;
    size_t n;
    int repeats;
    float sum;
};

static void *read_all(void *user) {
    struct reader *const r = user;
    float lanes[64] = {0};
    for (int k = 0; k < r->repeats; k++) {
        for (size_t i = 0; i + 64 <= r->n; i += 64) {
            for (int j = 0; j < 64; j++) {
                lanes[j] += r->x[i + j];
            }
        }
    }
    for (int j = 0; j < 64; j++) {
        r->sum += lanes[j];
    }
    return NULL;
}

// Bytes of memory a second that so many threads read together, each its part of x[n]; 0 where it failed.
EXPORT double dure_read_bytes_per_second(const float *x, size_t n, int n_threads, int repeats) {
    struct reader readers[n_threads];
    pthread_t threads[n_threads];
    const size_t part = n / (size_t)n_threads;
    const double start = MPI_Wtime();
    int begun = 0;
    for (; begun < n_threads; begun++) {
        readers[begun] = (struct reader){x + part * (size_t)begun, part, repeats, 0};
        if (pthread_create(&threads[begun], NULL, read_all, &readers[begun]) != 0) {
            break;
        }
    }
    for (int i = 0; i < begun; i++) {
        pthread_join(threads[i], NULL);
    }
    const double seconds = MPI_Wtime() - start;
    return begun == n_threads ? (double)(part * sizeof *x) * n_threads * repeats / seconds : 0;
}
