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
#include <time.h>

#include "dispatch.h"
#include "numbers.h"

enum { BLOCK = 32, MAX_POINTS = 8, MAX_NAME = 64, SPINS_BETWEEN_CHECKS = 64 };
enum { PIECE_BYTES = 64 * 1024, SLOTS = 8 };  // of vectors on their way; receives posted ahead a rank
enum { IN_FLIGHT = 4 };  // pieces that are sent before the others' came: with more of them TCP gets slower
enum { WARM_UP = 10, SMALL_REPEATS = 50, LARGE_REPEATS = 5, LARGE_BYTES = 4 * PIECE_BYTES };
enum wire { WIRE_Q8 = 0, WIRE_F32 = 1 };
enum tag { TAG_PARTS = 7, TAG_WHOLES = 8 };
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

// When one sum came how far, by the monotonic clock. Read by Python through the same layout.
struct sum_times {
    double begun, encoded, arrived, ended;
};

// Pieces of vectors from every other rank, in the order in which each sends them. As many receives as
// there are slots are posted at all times, so what comes early lies where it belongs.
struct ring {
    MPI_Request *requests;  // [n_ranks * SLOTS], persistent
    uint8_t *bytes;         // [n_ranks * SLOTS][PIECE_BYTES]
    size_t *taken;          // [n_ranks]: pieces that were used since the start
    bool *is_here;          // [n_ranks]: the next one has arrived
};

// What one sum sends. A send may be over only when its receiver is in MPI again, which it is at the next
// sum; so two sums take turns, and none waits for its own.
struct outbox {
    uint8_t *bytes;  // [max_blocks] this rank's vector, encoded
    MPI_Request *requests;
    int n_requests;
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
    size_t max_blocks;         // of a vector
    struct ring parts, wholes;  // partial vectors, and what an owner made of them
    struct outbox outboxes[2], *out;
    float *values;            // [max_blocks * BLOCK] what comes from device memory
    struct sum_times *trace;  // of the first sums since sums_begin; NULL where nobody asks
    int64_t trace_cap;
} g;

// Of the machine's monotonic clock, as Python's time.monotonic() tells it.
static double clock_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// The times of the sum that is being computed; a place that nobody reads where nobody asks.
static struct sum_times *times(void) {
    static struct sum_times unread;
    const bool is_kept = g.trace && g.stats.n_sums >= 1 && g.stats.n_sums <= g.trace_cap;
    return is_kept ? &g.trace[g.stats.n_sums - 1] : &unread;
}

// ---------------------------------------------------------------- encoding

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

static bool failed(enum status status) {
    g.stats.status = status;
    return false;
}

static void close_ring(struct ring *r) {
    for (int i = 0; r->requests && i < g.n_ranks * SLOTS; i++) {
        if (r->requests[i] != MPI_REQUEST_NULL) {
            MPI_Cancel(&r->requests[i]);
            MPI_Wait(&r->requests[i], MPI_STATUS_IGNORE);
            MPI_Request_free(&r->requests[i]);
        }
    }
    free(r->requests);
    free(r->bytes);
    free(r->taken);
    free(r->is_here);
    *r = (struct ring){0};
}

static bool open_ring(struct ring *r, int tag) {
    const size_t n = (size_t)g.n_ranks * SLOTS;
    r->requests = malloc(n * sizeof *r->requests);
    r->bytes = malloc(n * PIECE_BYTES);
    r->taken = calloc((size_t)g.n_ranks, sizeof *r->taken);
    r->is_here = calloc((size_t)g.n_ranks, sizeof *r->is_here);
    if (!r->requests || !r->bytes || !r->taken || !r->is_here) {
        free(r->requests);
        r->requests = NULL;
        return failed(NO_MEMORY);
    }
    for (size_t i = 0; i < n; i++) {
        r->requests[i] = MPI_REQUEST_NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const int p = (int)(i / SLOTS);
        if (p != g.rank && (MPI_Recv_init(r->bytes + i * PIECE_BYTES, PIECE_BYTES, MPI_BYTE, p, tag,
                                          g.comm, &r->requests[i]) != MPI_SUCCESS ||
                            MPI_Start(&r->requests[i]) != MPI_SUCCESS)) {
            return failed(MPI_FAILED);
        }
    }
    return true;
}

static size_t next_slot(const struct ring *r, int p) {
    return (size_t)p * SLOTS + r->taken[p] % SLOTS;
}

// Whether the next piece of rank p has arrived.
static bool is_here(struct ring *r, int p) {
    int done = r->is_here[p];
    if (!done &&
        MPI_Test(&r->requests[next_slot(r, p)], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
        return failed(MPI_FAILED);
    }
    return r->is_here[p] = done;
}

static bool all_are_here(struct ring *r) {
    bool all = true;
    for (int i = 1; i < g.n_ranks; i++) {
        all &= is_here(r, (g.rank + i) % g.n_ranks);
    }
    return all;
}

static const uint8_t *piece_of(const struct ring *r, int p) {
    return r->bytes + next_slot(r, p) * PIECE_BYTES;
}

// The next piece of rank p was used: its place is for another one.
static bool take(struct ring *r, int p) {
    if (MPI_Start(&r->requests[next_slot(r, p)]) != MPI_SUCCESS) {
        return failed(MPI_FAILED);
    }
    r->is_here[p] = false;
    r->taken[p]++;
    return true;
}

static bool take_all(struct ring *r) {
    for (int i = 1; i < g.n_ranks; i++) {
        if (!take(r, (g.rank + i) % g.n_ranks)) {
            return false;
        }
    }
    return true;
}

static bool send_to(int p, const uint8_t *from, size_t bytes, int tag) {
    MPI_Request *const request = &g.out->requests[g.out->n_requests];
    if (MPI_Isend(from, (int)bytes, MPI_BYTE, p, tag, g.comm, request) != MPI_SUCCESS) {
        return failed(MPI_FAILED);
    }
    g.out->n_requests++;
    g.stats.bytes_sent += (double)bytes;
    return true;
}

static bool send_to_all(const uint8_t *from, size_t bytes, int tag) {
    for (int i = 1; i < g.n_ranks; i++) {
        if (!send_to((g.rank + i) % g.n_ranks, from, bytes, tag)) {
            return false;
        }
    }
    return true;
}

// How long nothing has moved.
struct patience {
    int spins;
    double since;
};

// Whether to look once more; false when nothing has moved for too long.
// awaited: the next pieces of this ring, or NULL for what is being sent.
static bool look_again(struct patience *patience, const struct ring *awaited) {
    if (g.stats.status != OK) {
        return false;
    }
    if (++patience->spins % SPINS_BETWEEN_CHECKS) {
        return true;
    }
    sched_yield();  // costs nothing where each rank has a core, and much is won where it has not
    const double now = clock_s();
    if (patience->since == 0) {
        patience->since = now;
    }
    if (now - patience->since <= g.wait_s) {
        return true;
    }
    for (int i = 1; awaited && i < g.n_ranks && g.stats.waiting_for < 0; i++) {
        const int p = (g.rank + i) % g.n_ranks;
        g.stats.waiting_for = awaited->is_here[p] ? -1 : p;
    }
    return failed(DEADLINE);
}

// Takes the other outbox, once what it sent has gone.
static bool next_outbox(void) {
    g.out = g.out == g.outboxes ? g.outboxes + 1 : g.outboxes;
    struct patience patience = {0};
    for (;;) {
        int done = 0;
        if (MPI_Testall(g.out->n_requests, g.out->requests, &done, MPI_STATUSES_IGNORE) !=
            MPI_SUCCESS) {
            return failed(MPI_FAILED);
        }
        if (done) {
            g.out->n_requests = 0;
            return true;
        }
        if (!look_again(&patience, NULL)) {
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

static size_t piece_blocks(void) { return PIECE_BYTES / block_bytes(); }

static size_t n_pieces(struct span span) {
    return (span.count + piece_blocks() - 1) / piece_blocks();
}

static struct span piece(struct span span, size_t i) {
    const size_t first = i * piece_blocks(), left = span.count - first;
    return (struct span){span.start + first, left < piece_blocks() ? left : piece_blocks()};
}

static uint8_t *place_of(struct span span) { return g.out->bytes + span.start * block_bytes(); }

// Adds all ranks' next pieces, in the order of the ranks.
static void add_all(float *x, struct span span) {
    float *const sum = x + span.start * BLOCK;
    memset(sum, 0, span.count * BLOCK * sizeof(float));
    for (int p = 0; p < g.n_ranks; p++) {
        add(sum, p == g.rank ? place_of(span) : piece_of(&g.parts, p), span.count);
    }
}

// Every rank sends its whole vector to all. Where x is NULL, bytes without meaning.
static bool sum_one_phase(float *x, size_t n_blocks) {
    const struct span all = {0, n_blocks};
    const size_t n = n_pieces(all);
    if (!next_outbox()) {
        return false;
    }
    struct patience patience = {0};
    for (size_t sent = 0, added = 0; added < n;) {
        const bool may_send = sent < n && sent < added + IN_FLIGHT;
        if (may_send) {
            const struct span span = piece(all, sent++);
            uint8_t *const place = x ? place_of(span) : g.out->bytes;
            if (x) {
                encode(x + span.start * BLOCK, place, span.count);
            }
            if (sent == n) {
                times()->encoded = clock_s();
            }
            if (!send_to_all(place, span.count * block_bytes(), TAG_PARTS)) {
                return false;
            }
        }
        if (all_are_here(&g.parts)) {
            const struct span span = piece(all, added++);
            if (added == n) {
                times()->arrived = clock_s();
            }
            if (x) {
                add_all(x, span);
            }
            if (!take_all(&g.parts)) {
                return false;
            }
            patience = (struct patience){0};
        } else if (!may_send && !look_again(&patience, &g.parts)) {
            return false;
        }
    }
    return true;
}

// Sends piece i of every other rank's slice to that rank.
static bool scatter(const float *x, size_t n_blocks, size_t i) {
    for (int k = 0; k < g.n_ranks; k++) {
        const int p = (g.rank + k) % g.n_ranks;
        const struct span slice = slice_of(p, n_blocks);
        if (i >= n_pieces(slice)) {
            continue;
        }
        const struct span span = piece(slice, i);
        encode(x + span.start * BLOCK, place_of(span), span.count);
        if (p != g.rank && !send_to(p, place_of(span), span.count * block_bytes(), TAG_PARTS)) {
            return false;
        }
    }
    return true;
}

// The sum of a piece, as it is on the wire.
static void set(float *x, struct span span, const uint8_t *encoded) {
    float *const sum = x + span.start * BLOCK;
    memset(sum, 0, span.count * BLOCK * sizeof(float));
    add(sum, encoded, span.count);
}

// Sums a piece of this rank's own slice, and sends it to all.
static bool own_piece(float *x, struct span span) {
    add_all(x, span);
    encode(x + span.start * BLOCK, place_of(span), span.count);
    set(x, span, place_of(span));
    return take_all(&g.parts) &&
           send_to_all(place_of(span), span.count * block_bytes(), TAG_WHOLES);
}

// Each rank sums its own slice, then hands the sum to all: fewer bytes, one more round trip.
static bool sum_two_phases(float *x, size_t n_blocks) {
    if (!next_outbox()) {
        return false;
    }
    const struct span own = slice_of(g.rank, n_blocks);
    size_t n_scatter = 0, left = n_pieces(own), n_taken[g.n_ranks];
    for (int p = 0; p < g.n_ranks; p++) {
        const size_t n = n_pieces(slice_of(p, n_blocks));
        n_scatter = n > n_scatter ? n : n_scatter;
        left += p == g.rank ? 0 : n;
        n_taken[p] = 0;
    }
    struct patience patience = {0};
    for (size_t scattered = 0, summed = 0; left > 0;) {
        const size_t before = left;
        if (scattered < n_scatter) {
            if (!scatter(x, n_blocks, scattered++)) {
                return false;
            }
            times()->encoded = clock_s();
        }
        if (summed < n_pieces(own) && all_are_here(&g.parts)) {
            if (!own_piece(x, piece(own, summed++))) {
                return false;
            }
            left--;
        }
        for (int i = 1; i < g.n_ranks; i++) {
            const int p = (g.rank + i) % g.n_ranks;
            const struct span slice = slice_of(p, n_blocks);
            if (n_taken[p] < n_pieces(slice) && is_here(&g.wholes, p)) {
                times()->arrived = clock_s();
                set(x, piece(slice, n_taken[p]++), piece_of(&g.wholes, p));
                if (!take(&g.wholes, p)) {
                    return false;
                }
                left--;
            }
        }
        if (left < before) {
            patience = (struct patience){0};
        } else if (scattered == n_scatter &&
                   !look_again(&patience, summed < n_pieces(own) ? &g.parts : &g.wholes)) {
            return false;
        }
    }
    return true;
}

// Sums x[n_blocks * BLOCK] over all ranks, in place.
static bool sum_blocks(float *x, size_t n_blocks) {
    if (n_blocks > g.max_blocks) {
        return failed(BAD_TENSOR);
    }
    const bool two = g.n_ranks > 2 && (double)(n_blocks * block_bytes()) > g.two_phase_above;
    return two ? sum_two_phases(x, n_blocks) : sum_one_phase(x, n_blocks);
}

static bool sum_tensor(struct ggml_tensor *t) {
    if (t->type != GGML_TYPE_F32 || !ggml_is_contiguous(t)) {
        return failed(BAD_TENSOR);
    }
    const size_t n = (size_t)ggml_nelements(t), n_blocks = (n + BLOCK - 1) / BLOCK;
    const bool host = !g.staged && (t->buffer == NULL || ggml_backend_buffer_is_host(t->buffer));
    if (host && n % BLOCK == 0) {
        return sum_blocks(t->data, n_blocks);
    }
    if (n_blocks > g.max_blocks) {
        return failed(BAD_TENSOR);
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

// Also where we multiply.
static bool is_product(const struct ggml_tensor *t) {
    return t->op == GGML_OP_MUL_MAT || (t->op == GGML_OP_CUSTOM && t->src[0]);
}

static bool is_point(const struct ggml_tensor *t) {
    for (int i = 0; i < g.n_points; i++) {
        const struct point *p = &g.points[i];
        if (p->is_weight ? is_product(t) && ends_with(t->src[0]->name, p->name)
                         : strncmp(t->name, p->name, strlen(p->name)) == 0) {
            return true;
        }
    }
    return false;
}

// llama.cpp's callback of every graph, of a shard or of a whole model; user: what dure_kernels_new returned.
EXPORT bool dure_sums_callback(struct ggml_tensor *t, bool ask, void *user) {
    const bool alone = g.n_ranks == 0;  // a whole model: where a sum would be is noted, if somebody asks
    if (ask) {
        dispatch_node(user, t);
        return g.stats.status == OK && !(alone && !g.trace) && is_point(t);
    }
    if (g.stats.status != OK) {
        return false;
    }
    g.stats.n_sums++;
    if (ggml_nelements(t) == 0) {  // of a last layer when no logits are wanted
        return true;
    }
    struct sum_times *const now = times();
    const double start = now->begun = now->encoded = now->arrived = clock_s();
    const bool ok = alone || sum_tensor(t);
    now->ended = alone ? start : clock_s();
    g.stats.sync_s += now->ended - start;
    return ok;
}

// ---------------------------------------------------------------- called from Python

// Mean seconds of one exchange of n_bytes with every other rank, without encoding or adding.
EXPORT double dure_exchange_seconds(size_t n_bytes, int repeats) {
    const size_t n_blocks = n_bytes / block_bytes();
    if (n_blocks > g.max_blocks) {
        return NAN;
    }
    MPI_Barrier(g.comm);
    const double start = clock_s();
    for (int i = 0; i < repeats; i++) {
        if (!sum_one_phase(NULL, n_blocks)) {
            return NAN;
        }
    }
    return (clock_s() - start) / repeats;
}

// Above how many bytes two phases are quicker here. One takes a + b n seconds for n bytes, as measured
// with all ranks at once; two take 2 (a + b n / n_ranks). The answer is the same on every rank.
static double measured_two_phase_above(void) {
    if (g.n_ranks <= 2) {
        return INFINITY;
    }
    dure_exchange_seconds(LARGE_BYTES, 1);
    dure_exchange_seconds(block_bytes(), WARM_UP);
    double seconds[2] = {dure_exchange_seconds(block_bytes(), SMALL_REPEATS),
                         dure_exchange_seconds(LARGE_BYTES, LARGE_REPEATS)};
    MPI_Allreduce(MPI_IN_PLACE, seconds, 2, MPI_DOUBLE, MPI_MAX, g.comm);
    const double a_byte = (seconds[1] - seconds[0]) / LARGE_BYTES;
    // Where ranks share cores, the noise may be larger than what the bytes take: one phase is safe.
    return a_byte > 0 ? seconds[0] / (a_byte * (1 - 2.0 / g.n_ranks)) : INFINITY;
}

static bool read_points(const char *points) {
    g.n_points = 0;
    for (const char *p = points; *p;) {
        const size_t n = strcspn(p, "\n");
        if (g.n_points == MAX_POINTS || n < 2 || n > MAX_NAME) {
            return failed(BAD_TENSOR);
        }
        struct point *point = &g.points[g.n_points++];
        point->is_weight = p[0] == '=';
        memcpy(point->name, p + 1, n - 1);
        point->name[n - 1] = 0;
        p += n + (p[n] == '\n');
    }
    return true;
}

// All memory of the sums: a step takes no more.
static bool open_buffers(size_t max_values) {
    const size_t wanted = (max_values + BLOCK - 1) / BLOCK, least = LARGE_BYTES / block_bytes();
    g.max_blocks = wanted > least ? wanted : least;
    const size_t n_ranks = (size_t)g.n_ranks, n = n_pieces((struct span){0, g.max_blocks}) + n_ranks;
    g.values = malloc(g.max_blocks * BLOCK * sizeof *g.values);
    g.out = g.outboxes;
    bool is_there = g.values != NULL;
    for (struct outbox *o = g.outboxes; o < g.outboxes + 2; o++) {
        o->bytes = calloc(g.max_blocks, block_bytes());
        o->requests = calloc(2 * n * n_ranks, sizeof *o->requests);  // of two phases, which are more
        o->n_requests = 0;
        is_there &= o->bytes && o->requests;
    }
    return is_there ? true : failed(NO_MEMORY);
}

// Gives back what sums_start took. All ranks call it at once, after the same sums.
EXPORT void dure_sums_stop(void) {
    if (next_outbox() && next_outbox()) {
        MPI_Barrier(g.comm);  // until then others may need this rank to look after their sends
    }
    close_ring(&g.parts);
    close_ring(&g.wholes);
    for (struct outbox *o = g.outboxes; o < g.outboxes + 2; o++) {
        free(o->bytes);
        free(o->requests);
        *o = (struct outbox){0};
    }
    free(g.values);
    g.values = NULL;
    g.n_ranks = g.n_points = 0;
}

// points: lines "=suffix of a weight" or "^prefix of a node". max_values: of a vector.
// two_phase_above: below 0 it is measured. Needs MPI_Init; all ranks call it at once.
EXPORT int dure_sums_start(const char *points, int wire, size_t max_values, double two_phase_above,
                           double wait_s, int staged) {
    g.stats = (struct sums_stats){.waiting_for = -1};
    g.wire = wire;
    g.wait_s = wait_s;
    g.staged = staged != 0;
    if (!read_points(points)) {
        return g.stats.status;
    }
    if (MPI_Comm_dup(MPI_COMM_WORLD, &g.comm) != MPI_SUCCESS) {
        return MPI_FAILED;
    }
    MPI_Comm_set_errhandler(g.comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(g.comm, &g.rank);
    MPI_Comm_size(g.comm, &g.n_ranks);
    if (open_buffers(max_values) && open_ring(&g.parts, TAG_PARTS) &&
        open_ring(&g.wholes, TAG_WHOLES)) {
        g.two_phase_above = two_phase_above < 0 ? measured_two_phase_above() : two_phase_above;
    }
    return g.stats.status;
}

// For a process without sums: where they would be in the model that is traced next. Returns a status.
EXPORT int dure_sums_places(const char *points) {
    return read_points(points) ? OK : BAD_TENSOR;
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

enum { LANES = 64 };  // numbers that are looked at together

static float largest(const float *x, int n) {
    float lanes[LANES], max = -INFINITY;
    for (int j = 0; j < LANES; j++) {
        lanes[j] = -INFINITY;
    }
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
        }
    }
    for (int j = 0; j < LANES; j++) {
        max = lanes[j] > max ? lanes[j] : max;
    }
    for (; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

// The first place from i on where x[n] is above a bound; n where there is none.
static int next_above(const float *x, int n, int i, float bound) {
    for (; i + LANES <= n; i += LANES) {
        int found = 0;
        for (int j = 0; j < LANES; j++) {
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

// The first place of the largest of x[n]; 0 where no number is above minus infinity.
static int32_t first_largest(const float *x, int n) {
    const int i = next_above(x, n, 0, nextafterf(largest(x, n), -INFINITY));
    return i < n ? i : 0;
}

static void best_by_heap(const float *x, int n, int k, int32_t *ids) {
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

// log(sum(exp(x))) of x[n], whose largest is max.
static float log_sum_exp(const float *x, int n, float max) {
    enum { STRIDE = 32 * LANES };  // few enough for sums in 32 bits
    double sum = 0;
    int i = 0;
    while (i + LANES <= n) {
        float lanes[LANES] = {0};
        for (const int stop = n - i < STRIDE ? n : i + STRIDE; i + LANES <= stop; i += LANES) {
            for (int j = 0; j < LANES; j++) {
                lanes[j] += exp_of_negative(x[i + j] - max);
            }
        }
        for (int j = 0; j < LANES; j++) {
            sum += lanes[j];
        }
    }
    for (; i < n; i++) {
        sum += exp_of_negative(x[i] - max);
    }
    return (float)(max + log(sum));
}

// The k best of x[n] in no order (of equals the lower id), 1 <= k <= n: their ids, which begin at first_id, and
// their numbers. Returns log(sum(exp(x))) if it is wanted, else NaN.
EXPORT float dure_best(const float *x, int n, int k, int first_id, int32_t *ids, float *best, bool want_sum) {
    if (k == 1) {
        ids[0] = first_largest(x, n);
    } else {
        best_by_heap(x, n, k, ids);
    }
    for (int i = 0; i < k; i++) {
        best[i] = x[ids[i]];
        ids[i] += first_id;
    }
    return want_sum ? log_sum_exp(x, n, largest(x, n)) : NAN;
}

// ---------------------------------------------------------------- memory

struct reader {
    const float *x;
    size_t n;
    float sum;
};

static void *read_all(void *user) {
    struct reader *const r = user;
    float lanes[64] = {0};
    for (size_t i = 0; i + 64 <= r->n; i += 64) {
        for (int j = 0; j < 64; j++) {
            lanes[j] += r->x[i + j];
        }
    }
    for (int j = 0; j < 64; j++) {
        r->sum += lanes[j];
    }
    return NULL;
}

// Bytes of memory a second that so many threads read together, each its part of x[n]; 0 where it failed.
// All ranks call it at once, and begin at once; a process without sums is alone.
EXPORT double dure_read_bytes_per_second(const float *x, size_t n, int n_threads) {
    struct reader readers[n_threads];
    pthread_t threads[n_threads];
    const size_t part = n / (size_t)n_threads;
    if (g.n_ranks > 0) {
        MPI_Barrier(g.comm);
    }
    const double start = clock_s();
    int begun = 0;
    for (; begun < n_threads; begun++) {
        readers[begun] = (struct reader){x + part * (size_t)begun, part, 0};
        if (pthread_create(&threads[begun], NULL, read_all, &readers[begun]) != 0) {
            break;
        }
    }
    for (int i = 0; i < begun; i++) {
        pthread_join(threads[i], NULL);
    }
    const double seconds = clock_s() - start;
    return begun == n_threads ? (double)(part * sizeof *x) * n_threads / seconds : 0;
}
