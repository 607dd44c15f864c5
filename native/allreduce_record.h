#pragma once

#include <stdbool.h>
#include <stdint.h>

// Read by Python, with the same numbers.
enum allreduce_status {
    ALLREDUCE_OK = 0,
    ALLREDUCE_DEADLINE = 1,
    ALLREDUCE_MPI_FAILED = 2,
    ALLREDUCE_BAD_TENSOR = 3,
    ALLREDUCE_NO_MEMORY = 4
};

// The all-reduces since dure_allreduce_begin. Read by Python through the same layout.
struct allreduce_stats {
    double sync_s;
    double bytes_sent;
    int64_t n_allreduces;
    int32_t status;       // enum allreduce_status
    int32_t waiting_for;  // with DEADLINE: the first rank that nothing came from, or -1
};

// How far an all-reduce was at which time of the monotonic clock. Read by Python through the same layout.
struct allreduce_times {
    double begun, encoded, arrived, ended;
};

extern struct allreduce_stats step_stats;

// Records a failure. Returns false, to be returned in turn.
bool allreduce_failed(enum allreduce_status status);

// Tells whether the times of all-reduces are kept.
bool times_are_kept(void);

// Returns where the times of the current all-reduce go: a place that nobody reads if they are not kept.
struct allreduce_times *current_times(void);
