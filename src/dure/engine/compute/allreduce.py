"""All-reduce of partial vectors over the ranks, and how fast ranks exchange bytes and read memory.

Knows what `allreduce.c`, `allreduce_record.c` and `bandwidth.c` of `native/` export. Refuses to know
steps and shards.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from dure.engine.arrays import Floats, Times
from dure.engine.compute.native import library
from dure.engine.wire import Wire
from dure.errors import EngineError

__all__ = [
    "AllReduce",
    "AllReduceStats",
    "ReductionStatus",
    "ReductionTimes",
    "exchange_seconds",
    "graph_callback",
    "read_bytes_per_s",
]

READS, READ_BYTES = 16, 256 << 20  # of memory, each about as long as a token


class ReductionStatus(IntEnum):
    """What became of a step's all-reduces."""

    OK = 0
    DEADLINE = 1
    MPI_FAILED = 2
    BAD_TENSOR = 3
    NO_MEMORY = 4


@dataclass(frozen=True)
class AllReduceStats:
    """One step's all-reduces on one rank: their seconds, bytes sent, and number."""

    sync_s: float
    bytes_sent: float
    n_reductions: int


class _Stats(ctypes.Structure):
    _fields_ = (
        ("sync_s", ctypes.c_double),
        ("bytes_sent", ctypes.c_double),
        ("n_sums", ctypes.c_int64),
        ("status", ctypes.c_int32),
        ("waiting_for", ctypes.c_int32),
    )


def graph_callback() -> int:
    """Return the address of the callback for llama.cpp; its `user_data` is `CustomNodes.handle`.

    It has our functions compute what they compute better, and reduces over the ranks if there is an
    `AllReduce`.
    """
    return ctypes.cast(library().dure_graph_callback, ctypes.c_void_p).value or 0


class ReductionTimes:
    """Records when a step came to its reduction points; without an `AllReduce`, of a whole model.

    There may be several; only one of a process records at a time.
    """

    def __init__(self) -> None:
        self._n_recorded = 0

    def begin(self) -> None:
        """Forget the last step's; `AllReduce.begin` does, too."""
        library().dure_allreduce_begin()

    def record(self, n_reductions: int) -> None:
        """Record the first n_reductions of every step; 0 stops it. Raises EngineError."""
        if library().dure_allreduce_trace(ctypes.c_int64(n_reductions)) != ReductionStatus.OK:
            raise EngineError(f"there is no memory for the times of {n_reductions} sums")
        self._n_recorded = n_reductions

    def record_whole(self, points: tuple[str, ...], n_reductions: int) -> None:
        """Record a whole model's. points: `Architecture.reduction_points`. Raises EngineError."""
        if library().dure_allreduce_points("\n".join(points).encode()) != ReductionStatus.OK:
            raise EngineError(f"{', '.join(points)} are not places in a model; please report it")
        self.record(n_reductions)

    def recorded(self) -> Times:
        """Return when each all-reduce of the last step began, was encoded, had arrived and ended.

        float64 [n_reductions, 4], seconds of this machine's monotonic clock.
        """
        times = np.zeros((self._n_recorded, 4))
        if not self._n_recorded:
            return times
        return times[: library().dure_allreduce_times(ctypes.c_void_p(times.ctypes.data))]


class AllReduce:
    """This rank's end of the all-reduces. Needs MPI to be initialized; one a process.

    `points`: where a partial vector stands, `Architecture.reduction_points`.
    `max_values`: of a vector; the memory for it is allocated here, and no more later.
    `wait_s`: no rank waits longer than this for another.
    `two_phase_above`: bytes of an encoded vector above which it is scattered, then gathered; None:
    what is quicker on these links, as measured now.
    `staged`: copy every tensor out and in, as for device memory (for tests).
    `times`: when a step came to its reduction points.
    """

    def __init__(
        self,
        points: tuple[str, ...],
        wire: Wire,
        *,
        max_values: int,
        wait_s: float,
        two_phase_above: float | None = None,
        staged: bool = False,
    ) -> None:
        status = library().dure_allreduce_start(
            "\n".join(points).encode(),
            int(wire is Wire.F32),
            ctypes.c_size_t(max_values),
            ctypes.c_double(-1 if two_phase_above is None else two_phase_above),
            ctypes.c_double(wait_s),
            int(staged),
        )
        if status != ReductionStatus.OK:
            raise EngineError(f"the sums cannot start: {ReductionStatus(status).name}")
        self._wait_s, self.times = wait_s, ReductionTimes()
        self._begin, self._end = library().dure_allreduce_begin, library().dure_allreduce_end
        self._stats = _Stats()
        self._stats_pointer = ctypes.byref(self._stats)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Compute without the other ranks for a while: partial vectors stay as they are."""
        library().dure_warm_up(True)
        try:
            yield
        finally:
            library().dure_warm_up(False)

    def begin(self) -> None:
        """Forget the last step's figures."""
        self._begin()

    def end(self) -> AllReduceStats:
        """Return the step's figures. Raises EngineError if an all-reduce failed."""
        stats = self._stats
        self._end(self._stats_pointer)
        if stats.status:
            raise self._failure(stats)
        return AllReduceStats(stats.sync_s, stats.bytes_sent, stats.n_sums)

    def _failure(self, stats: _Stats) -> EngineError:
        if stats.status != ReductionStatus.DEADLINE:
            return EngineError(f"a sum over the ranks failed: {ReductionStatus(stats.status).name}")
        late = f"rank {stats.waiting_for}" if stats.waiting_for >= 0 else "another rank"
        return EngineError(
            f"{late} did not answer within {self._wait_s:g} s",
            "is its machine on, and its cable in?",
        )

    def close(self) -> None:
        """Give the memory back, and take back the receives that are posted."""
        library().dure_allreduce_stop()

    def reduce(self, x: Floats) -> None:
        """Sum x (float32, a multiple of 32 elements) over all ranks, in place."""
        library().dure_allreduce(ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(x.size))
        self.end()


def exchange_seconds(n_bytes: int, repeats: int) -> float:
    """Measure the mean seconds of an exchange of n_bytes between all ranks, which call it at once."""
    seconds = float(
        library().dure_exchange_seconds(ctypes.c_size_t(n_bytes), ctypes.c_int(repeats))
    )
    if math.isnan(seconds):
        raise EngineError("an exchange between the ranks failed")
    return seconds


def read_bytes_per_s(n_threads: int) -> float:
    """Measure how fast n_threads read memory while those of the other ranks do.

    All ranks call it at once; a process without an `AllReduce` is alone. Ranks of one machine share its
    memory, as they do when they compute. The mean of many reads, as a run's speed is the mean of many
    tokens: there are machines whose memory is twice as fast at some moments.
    """
    x = np.ones(READ_BYTES // 4, np.float32)
    pointer, n = ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(x.size)
    tries = [
        float(library().dure_read_bytes_per_second(pointer, n, n_threads)) for _ in range(READS)
    ]
    return statistics.harmonic_mean(tries)
