"""Gives single processes another clock of the day, by a library that is loaded before all others.

Clocks that count from the machine's start stay as they are, as on a machine whose clock somebody has set.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["clock_library"]

_CODE = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long offset(void)
{
    const char *text = getenv("CLOCK_IS_OFF_BY_S");
    return text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int error = syscall(SYS_clock_gettime, clock, now);
    if (error == 0 && clock == CLOCK_REALTIME)
        now->tv_sec += offset();
    return error;
}

time_t time(time_t *result)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict result, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    result->tv_sec = now.tv_sec;
    result->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


def clock_library(directory: Path) -> Path:
    """Return a library for LD_PRELOAD: CLOCK_IS_OFF_BY_S of the environment is added to the clock."""
    source, library = directory / "clock.c", directory / "clock.so"
    source.write_text(_CODE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library
