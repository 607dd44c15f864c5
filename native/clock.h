#pragma once

#include <time.h>

// Seconds of the machine's monotonic clock, the one of Python's time.monotonic().
static inline double clock_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
