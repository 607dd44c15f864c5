"""How many threads compute while other programs use the processors as well.

Threads wait for each other some hundred times per token. One that the kernel sets aside for another program
holds up all of them, so fewer threads that each have a processor of their own are faster.
Knows what Linux counts for each processor. Refuses to know models.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import psutil

from dure.hardware.probe import cpus, n_cpus

__all__ = ["CpuTimes", "ThreadChoice", "ThreadSharing", "cpu_times", "fitting", "processors_left"]

WINDOW_S = 0.5  # in which load is measured
IDLE_S = 0.25  # between two steps: what was measured before says nothing of now
DOWN_AFTER, UP_AFTER = 2, 6  # windows that agree
REST_WINDOWS = 60  # after fewer threads turned out to be no faster; doubled each time
MOST_REST_WINDOWS = 1200


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of processor time until some moment, on the processors that this process may use.

    at: by the clock. busy: of all programs. own: of this process.
    """

    at: float
    busy: float
    own: float


def cpu_times(allowed: Collection[int]) -> CpuTimes | None:
    """Return what the kernel counted on these processors; None if it does not tell."""
    try:
        times = psutil.cpu_times(percpu=True)
    except (OSError, NotImplementedError):
        return None
    busy = sum(
        t.user + t.nice + t.system + t.irq + t.softirq + t.steal
        for t in ([times[cpu] for cpu in allowed if cpu < len(times)] or times)
    )
    return CpuTimes(time.monotonic(), busy, time.process_time())


def processors_left(n: int, before: CpuTimes, now: CpuTimes, idle_s: float) -> float:
    """Return how many of n processors other programs left to this process between two moments.

    idle_s: that it had nothing to compute; others are free to use them all then, as a draft model does.
    """
    others_s = now.busy - before.busy - (now.own - before.own)
    return n - max(0.0, others_s - n * idle_s) / (now.at - before.at)


def fitting(left: float, most: int) -> int:
    """Return how many threads, of `most`, have a processor each if so many are left."""
    return most if left == math.inf else min(most, max(1, math.floor(left + 0.5)))


class ThreadSharing:
    """Watches one process's steps, and says how many threads its next one should have.

    most: threads that it may have. read: returns the times until now. left: processors that other programs
    leave; infinity until that is known.
    """

    def __init__(self, most: int, read: Callable[[], CpuTimes | None] | None = None) -> None:
        allowed = cpus()
        self._choice, self._read = ThreadChoice(most), read or partial(cpu_times, allowed)
        self._n_allowed, self._quota = len(allowed), n_cpus()
        self.left = math.inf
        self._begun = self._read()
        self._stepped_at = time.monotonic()
        self._idle_s = 0.0
        self._seconds = defaultdict[int, list[float]](list)  # of steps, by their number of tokens

    def threads(self, n_tokens: int, begun: float, compute_s: float) -> int:
        """Return the threads for the next step, after one of n_tokens that began then (`monotonic`)."""
        idle_s, self._stepped_at = begun - self._stepped_at, time.monotonic()
        if idle_s > IDLE_S:
            self._begin()
            return self._choice.now
        self._idle_s += idle_s
        self._seconds[n_tokens].append(compute_s)
        if self._begun is not None and self._stepped_at - self._begun.at > WINDOW_S:
            self._end_window(self._begun)
        return self._choice.now

    def _end_window(self, begun: CpuTimes) -> None:
        means = {n_tokens: fmean(seconds) for n_tokens, seconds in self._seconds.items()}
        idle_s = self._idle_s
        self._begin()
        if self._begun is not None:
            left = processors_left(self._n_allowed, begun, self._begun, idle_s)
            self.left = min(left, self._quota)
            self._choice.observe(self.left, means)

    def _begin(self) -> None:
        self._begun = self._read()
        self._seconds.clear()
        self._idle_s = 0.0


class ThreadChoice:
    """Chooses among 1 to `most` threads, window by window, from how many processors are left.

    Fewer threads must prove to be faster: else all are taken again, and fewer are not tried for a while.
    """

    def __init__(self, most: int) -> None:
        self.most = self.now = most
        self._wanted = list[int]()  # in the latest windows, all fewer or all more than now
        self._before: Mapping[int, float] | None = None  # seconds of steps with more threads
        self._rest, self._next_rest = 0, REST_WINDOWS

    def observe(self, left: float, seconds: Mapping[int, float]) -> int:
        """Return the threads for the next window. seconds: that a step took, by its number of tokens."""
        self._rest = max(0, self._rest - 1)
        if self._before is not None and (gain := _gain(self._before, seconds)):
            self._before = None
            if gain <= 1:
                self.now, self._rest = self.most, self._next_rest
                self._next_rest = min(2 * self._rest, MOST_REST_WINDOWS)
                self._wanted.clear()
                return self.now
        wanted = fitting(left, self.most)
        if self._wanted and (wanted > self.now) != (self._wanted[-1] > self.now):
            self._wanted.clear()
        self._wanted.append(wanted)
        if wanted == self.now:
            self._wanted.clear()
        elif wanted < self.now and len(self._wanted) >= DOWN_AFTER and not self._rest:
            self._before = dict(seconds)
            self._change(max(self._wanted))
        elif wanted > self.now and len(self._wanted) >= UP_AFTER:
            self._before = None
            self._change(min(self._wanted))
        return self.now

    def _change(self, threads: int) -> None:
        self.now = threads
        self._wanted.clear()


def _gain(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Return how many times as fast steps of the same sizes are now; 0 if there are none."""
    same = before.keys() & after.keys()
    took = sum(after[n] for n in same)
    return sum(before[n] for n in same) / took if took else 0.0
