// Records what the all-reduces of a step did: their number, bytes, seconds, failure, and times for a trace.
//
// Knows: the record, and how Python reads it. Refuses to know: how vectors are reduced.

#include "allreduce_record.h"

#include <stdlib.h>
#include <string.h>

#include "attributes.h"

struct allreduce_stats step_stats;

static struct allreduce_times *trace;  // [max_traced] of the first all-reduces of a step; NULL: not kept
static int64_t max_traced;

bool allreduce_failed(enum allreduce_status status) {
    step_stats.status = status;
    return false;
}

bool times_are_kept(void) { return trace != NULL; }

struct allreduce_times *current_times(void) {
    static struct allreduce_times unread;
    const int64_t n = step_stats.n_allreduces;
    return trace && n >= 1 && n <= max_traced ? &trace[n - 1] : &unread;
}

// Forgets the last step's record.
EXPORT void dure_allreduce_begin(void) { step_stats = (struct allreduce_stats){.waiting_for = -1}; }

// Copies the step's record.
EXPORT void dure_allreduce_end(struct allreduce_stats *stats) { *stats = step_stats; }

// Keeps the times of the first n all-reduces of every step from now on; 0 keeps none. Returns a status.
EXPORT int dure_allreduce_trace(int64_t n) {
    free(trace);
    trace = n ? calloc((size_t)n, sizeof *trace) : NULL;
    max_traced = trace ? n : 0;
    return n && !trace ? ALLREDUCE_NO_MEMORY : ALLREDUCE_OK;
}

// Copies the times of the step's all-reduces, as many as are kept. Returns their number.
EXPORT int64_t dure_allreduce_times(struct allreduce_times *out) {
    const int64_t n = step_stats.n_allreduces < max_traced ? step_stats.n_allreduces : max_traced;
    memcpy(out, trace, (size_t)n * sizeof *out);
    return n;
}
