"""How many threads compute while other programs use the processors as well.

Threads wait for each other some hundred times per token. One that the kernel sets aside for another program
holds up all of them, so fewer threads that each have a processor of their own are faster.

A thread that waits for another one spins. So a step should take as much processor time as all of its
threads have time; what lacks is what other programs took. Fewer threads may lack nothing while the others
still run: whether there is room for more, the processors' idle time tells, and the time in which they run
programs that would give way.
Refuses to know models.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from statistics import fmean

from dure.engine.thread_watch import SHORT
from dure.hardware.probe import cpus, idle_s

__all__ = ["StepTimes", "ThreadChoice", "ThreadSharing"]

SPARE = 0.7  # processors that idle: one more thread has room
WINDOW_S = 0.5  # in which both are measured
IDLE_S = 0.25  # between two steps: what was measured before says nothing of now
DOWN_AFTER, UP_AFTER = 2, 6  # windows that agree
SOON = 20  # windows
REST, MOST_REST = 60, 1200  # windows: after a choice that was wrong, doubled every time


class StepTimes:
    """The times of a step. begun: by `time.monotonic`. cpu_s: of this process until the step began."""

    def __init__(self) -> None:
        self.begun, self.cpu_s = time.monotonic(), time.process_time()

    def lost(self, threads: int, sync_s: float) -> float:
        """Return how many of the threads' time was lost until now. sync_s: in which one of them polled."""
        step_s = time.monotonic() - self.begun
        wanted = threads * (step_s - sync_s) + sync_s
        return max(0.0, wanted - (time.process_time() - self.cpu_s)) / step_s if step_s else 0.0


class ThreadSharing:
    """Watches one process's steps, and says how many threads the next one should have.

    most: threads that it may have. read: returns the idle time of the processors, by default with that of
    programs that have a lower priority than this one.
    """

    def __init__(self, most: int, read: Callable[[], float | None] | None = None) -> None:
        outranks = os.getpriority(os.PRIO_PROCESS, 0) <= 0
        self._choice = ThreadChoice(most)
        self._read = read or partial(idle_s, cpus(), niced=outranks)
        self._begun = self._stepped_at = time.monotonic()
        self._idle_s, self._pauses_s = self._read(), 0.0
        self._lost = list[float]()
        self._seconds = defaultdict[int, list[float]](list)  # of steps, by their number of tokens

    def after_step(self, n_tokens: int, begun: float, compute_s: float, lost: float) -> int:
        """Return the threads for the next step, after one of n_tokens that began then and lost so much."""
        now = time.monotonic()
        pause_s = begun - self._stepped_at
        if pause_s > IDLE_S:
            self._choice.forget()
            self._begin(now)
            return self._choice.now
        self._stepped_at = now
        self._pauses_s += pause_s
        self._seconds[n_tokens].append(compute_s)
        self._lost.append(lost)
        if now - self._begun > WINDOW_S:
            self._end_window(now)
        return self._choice.now

    def _end_window(self, now: float) -> None:
        idle_now = self._read()
        if idle_now is not None and self._idle_s is not None:
            own = self._choice.now * self._pauses_s
            spare = (idle_now - self._idle_s - own) / (now - self._begun)
            means = {n_tokens: fmean(seconds) for n_tokens, seconds in self._seconds.items()}
            self._choice.observe(fmean(self._lost), spare, means)
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._begun = self._stepped_at = now
        self._idle_s, self._pauses_s = self._read(), 0.0
        self._lost.clear()
        self._seconds.clear()


class ThreadChoice:
    """Chooses among 1 to `most` threads, window by window.

    Fewer threads must prove to be faster, else those before are taken again, and fewer are not tried for a
    while. More threads that are given up again soon are not tried for a while either.
    """

    def __init__(self, most: int) -> None:
        self.most = self.now = most
        self._n_short = self._n_spare = 0  # windows without a break
        self._before: tuple[int, Mapping[int, float]] | None = None  # threads, and seconds of steps
        self._fewer, self._more, self._since_more = _Patience(), _Patience(), SOON

    def forget(self) -> None:
        """Forget the windows until now, but not the choice."""
        self._n_short = self._n_spare = 0
        self._before = None

    def observe(self, lost: float, spare: float, seconds: Mapping[int, float]) -> int:
        """Return the threads for the next window.

        lost: threads' worth of time that others took. spare: processors that idled. seconds: that a step
        took, by its number of tokens.
        """
        self._fewer.pass_window()
        self._more.pass_window()
        self._since_more += 1
        if self._before is not None and (gain := _gain(self._before[1], seconds)):
            threads, self._before = self._before[0], None
            if gain <= 1:
                self._fewer.fail()
                return self._take(threads)
            self._fewer.succeed()
        self._n_short = self._n_short + 1 if lost >= SHORT else 0
        self._n_spare = self._n_spare + 1 if spare >= SPARE else 0
        if self.now > 1 and self._n_short >= DOWN_AFTER and not self._fewer.rest:
            if self._since_more < SOON:
                self._more.fail()
            else:
                self._more.succeed()
            self._before = self.now, dict(seconds)
            return self._take(max(1, self.now - max(1, round(lost))))
        if self.now < self.most and self._n_spare >= UP_AFTER and not self._more.rest:
            self._since_more = 0
            return self._take(min(self.most, self.now + max(1, int(spare))))
        return self.now

    def _take(self, threads: int) -> int:
        self.now = threads
        self._n_short = self._n_spare = 0
        return threads


class _Patience:
    """How many windows to wait after what failed: twice as many every time, until it succeeds."""

    def __init__(self) -> None:
        self.rest, self._next = 0, REST

    def pass_window(self) -> None:
        self.rest = max(0, self.rest - 1)

    def fail(self) -> None:
        self.rest, self._next = self._next, min(2 * self._next, MOST_REST)

    def succeed(self) -> None:
        self._next = REST


def _gain(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Return how many times as fast steps of the same sizes are now; 0 if there are none."""
    same = before.keys() & after.keys()
    took = sum(after[n] for n in same)
    return sum(before[n] for n in same) / took if took else 0.0
