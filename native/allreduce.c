// Opens and closes this rank's end of the all-reduce, and sums tensors with it.
//
// Knows: its memory, device memory, and which way of summing is quicker on these links. Refuses to know: where
// the graph needs a sum, and models, shards, steps and requests; Python decides.

#include "allreduce.h"

#include <ggml-backend.h>
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "allreduce_record.h"
#include "attributes.h"
#include "clock.h"
#include "exchange.h"
#include "phases.h"
#include "reduction_points.h"
#include "wire.h"

// How the crossover from one phase to two is measured.
enum { WARM_UP = 10, SMALL_REPEATS = 50, LARGE_REPEATS = 5, LARGE_BYTES = 4 * PIECE_BYTES };

static struct {
    struct exchange exchange;
    enum wire_format wire;
    bool is_staged;          // treats every tensor as if it were in device memory (tests)
    double two_phase_above;  // bytes of an encoded vector
    size_t max_blocks;       // of a vector
    float *values;           // [max_blocks * WIRE_BLOCK] what comes from device memory
} g;

bool allreduce_is_open(void) { return g.exchange.n_ranks > 0; }

void wait_for_all_ranks(void) {
    if (allreduce_is_open()) {
        MPI_Barrier(g.exchange.comm);
    }
}

// ---------------------------------------------------------------- summing

// Sums x[n_blocks * WIRE_BLOCK] over all ranks, in place.
static bool allreduce_blocks(float *x, size_t n_blocks) {
    if (n_blocks > g.max_blocks) {
        return allreduce_failed(ALLREDUCE_BAD_TENSOR);
    }
    const struct allreduce a = {&g.exchange, g.wire, x, n_blocks};
    const double n_bytes = (double)(n_blocks * wire_block_bytes(g.wire));
    const bool in_two = g.exchange.n_ranks > 2 && n_bytes > g.two_phase_above;
    return in_two ? allreduce_in_two_phases(&a) : allreduce_in_one_phase(&a);
}

bool allreduce_tensor(struct ggml_tensor *t) {
    if (t->type != GGML_TYPE_F32 || !ggml_is_contiguous(t)) {
        return allreduce_failed(ALLREDUCE_BAD_TENSOR);
    }
    const size_t n = (size_t)ggml_nelements(t), n_blocks = (n + WIRE_BLOCK - 1) / WIRE_BLOCK;
    const bool is_host = !g.is_staged && (t->buffer == NULL || ggml_backend_buffer_is_host(t->buffer));
    if (is_host && n % WIRE_BLOCK == 0) {
        return allreduce_blocks(t->data, n_blocks);
    }
    if (n_blocks > g.max_blocks) {
        return allreduce_failed(ALLREDUCE_BAD_TENSOR);
    }
    memset(g.values + n, 0, (n_blocks * WIRE_BLOCK - n) * sizeof(float));
    ggml_backend_tensor_get(t, g.values, 0, n * sizeof(float));
    if (!allreduce_blocks(g.values, n_blocks)) {
        return false;
    }
    ggml_backend_tensor_set(t, g.values, 0, n * sizeof(float));
    return true;
}

// Sums x[n] over all ranks, in place, as the graph's callback does. Returns a status.
EXPORT int dure_allreduce(float *x, size_t n) {
    if (n % WIRE_BLOCK != 0) {
        return ALLREDUCE_BAD_TENSOR;
    }
    allreduce_blocks(x, n / WIRE_BLOCK);
    return step_stats.status;
}

// ---------------------------------------------------------------- measuring

// Returns the mean seconds of an exchange of n_bytes with every other rank, without encoding and adding; NaN if
// it failed. All ranks call it at once.
EXPORT double dure_exchange_seconds(size_t n_bytes, int repeats) {
    const struct allreduce a = {&g.exchange, g.wire, NULL, n_bytes / wire_block_bytes(g.wire)};
    if (a.n_blocks > g.max_blocks) {
        return NAN;
    }
    MPI_Barrier(g.exchange.comm);
    const double start = clock_s();
    for (int i = 0; i < repeats; i++) {
        if (!allreduce_in_one_phase(&a)) {
            return NAN;
        }
    }
    return (clock_s() - start) / repeats;
}

// Returns the bytes above which two phases are quicker on these links, the same on every rank. One phase takes
// a + b n seconds for n bytes, as measured with all ranks at once; two take 2 (a + b n / n_ranks).
static double measured_two_phase_above(void) {
    const size_t small_bytes = wire_block_bytes(g.wire);
    if (g.exchange.n_ranks <= 2) {
        return INFINITY;
    }
    dure_exchange_seconds(LARGE_BYTES, 1);
    dure_exchange_seconds(small_bytes, WARM_UP);
    double seconds[2] = {dure_exchange_seconds(small_bytes, SMALL_REPEATS),
                         dure_exchange_seconds(LARGE_BYTES, LARGE_REPEATS)};
    MPI_Allreduce(MPI_IN_PLACE, seconds, 2, MPI_DOUBLE, MPI_MAX, g.exchange.comm);
    const double a_byte = (seconds[1] - seconds[0]) / LARGE_BYTES;
    // If ranks share cores, the noise may be larger than what the bytes take; one phase is safe.
    return a_byte > 0 ? seconds[0] / (a_byte * (1 - 2.0 / g.exchange.n_ranks)) : INFINITY;
}

// ---------------------------------------------------------------- opening and closing

// Allocates all memory of the all-reduce; a step allocates none.
static bool allocate(size_t max_values) {
    const size_t block_bytes = wire_block_bytes(g.wire), n_ranks = (size_t)g.exchange.n_ranks;
    const size_t wanted = (max_values + WIRE_BLOCK - 1) / WIRE_BLOCK, least = LARGE_BYTES / block_bytes;
    g.max_blocks = wanted > least ? wanted : least;
    g.values = malloc(g.max_blocks * WIRE_BLOCK * sizeof *g.values);
    if (!g.values) {
        return allreduce_failed(ALLREDUCE_NO_MEMORY);
    }
    // Two phases send more: each rank's slice may end in a piece that is not full, and goes to all twice.
    const size_t max_pieces = n_pieces_of(g.wire, g.max_blocks) + n_ranks;
    return open_exchange(&g.exchange, g.max_blocks * block_bytes, 2 * max_pieces * n_ranks);
}

// Opens the all-reduce. points: see read_reduction_points. wire: enum wire_format. max_values: of a vector.
// two_phase_above: bytes of an encoded vector above which it is summed in two phases; if below 0, it is
// measured. wait_s: no rank waits longer than this for another. Needs MPI_Init; all ranks call it at once.
// Returns a status.
EXPORT int dure_allreduce_start(const char *points, int wire, size_t max_values, double two_phase_above,
                                double wait_s, int is_staged) {
    step_stats = (struct allreduce_stats){.waiting_for = -1};
    g.wire = wire;
    g.is_staged = is_staged != 0;
    if (read_reduction_points(points) && join_exchange(&g.exchange, wait_s) && allocate(max_values)) {
        g.two_phase_above = two_phase_above < 0 ? measured_two_phase_above() : two_phase_above;
    }
    return step_stats.status;
}

// Closes the all-reduce and frees its memory. All ranks call it at once, after the same all-reduces.
EXPORT void dure_allreduce_stop(void) {
    close_exchange(&g.exchange);
    free(g.values);
    g.values = NULL;
    forget_reduction_points();
}
