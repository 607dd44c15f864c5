"""Sums over all ranks, the best logits of a slice, and how fast memory is read.

Knows what `allreduce.c`, `allreduce_record.c` and `bandwidth.c` of `native/` export. Refuses to know
steps and shards.
"""

from __future__ import annotations

import ctypes
import math
import statistics
from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from dure.engine.compute.native import library
from dure.engine.executor import Floats
from dure.engine.instruments.trace import Times
from dure.errors import EngineError

__all__ = [
    "Status",
    "SumStats",
    "SumTimes",
    "Sums",
    "Wire",
    "exchange_seconds",
    "read_bytes_per_s",
    "sums_callback",
]


READS, READ_BYTES = 16, 256 << 20  # of memory, each about as long as a token


class Wire(Enum):
    """How partial vectors travel: 8-bit blocks of 32 (34 bytes), or float32."""

    Q8 = "q8"
    F32 = "f32"

    @property
    def value_bytes(self) -> float:
        """Bytes of one value on the wire."""
        return 4.0 if self is Wire.F32 else 34 / 32


class Status(IntEnum):
    """What became of the sums of a step."""

    OK = 0
    DEADLINE = 1
    MPI_FAILED = 2
    BAD_TENSOR = 3
    NO_MEMORY = 4


@dataclass(frozen=True)
class SumStats:
    """Of one step on one rank: seconds in sums, bytes sent, number of sums."""

    sync_s: float
    bytes_sent: float
    n_sums: int


class _Stats(ctypes.Structure):
    _fields_ = (
        ("sync_s", ctypes.c_double),
        ("bytes_sent", ctypes.c_double),
        ("n_sums", ctypes.c_int64),
        ("status", ctypes.c_int32),
        ("waiting_for", ctypes.c_int32),
    )


def sums_callback() -> int:
    """The address of the callback for llama.cpp; its `user_data` is `OwnNodes.handle`.

    It has our functions compute what they compute better, and sums over the ranks where `Sums` were made.
    """
    return ctypes.cast(library().dure_graph_callback, ctypes.c_void_p).value or 0


class SumTimes:
    """When the sums of a step were; in a process without `Sums`, when a whole model came to their places.

    Several may be there; only one of a process keeps times at a time.
    """

    def __init__(self) -> None:
        self._n_kept = 0

    def begin(self) -> None:
        """Forget the last step's; `Sums.begin` does, too."""
        library().dure_allreduce_begin()

    def keep(self, n_sums: int) -> None:
        """Keep the times of the first n_sums of every step; 0 keeps none. Raises EngineError."""
        if library().dure_allreduce_trace(ctypes.c_int64(n_sums)) != Status.OK:
            raise EngineError(f"there is no memory for the times of {n_sums} sums")
        self._n_kept = n_sums

    def keep_of(self, points: tuple[str, ...], n_sums: int) -> None:
        """The same in a process without `Sums`. points: `Architecture.reduction_points`."""
        if library().dure_allreduce_points("\n".join(points).encode()) != Status.OK:
            raise EngineError(f"{', '.join(points)} are not places in a model; please report it")
        self.keep(n_sums)

    def told(self) -> Times:
        """Of each sum of the last step when it began, was encoded, had arrived and ended.

        float64 [n_sums, 4], seconds of this machine's monotonic clock.
        """
        times = np.zeros((self._n_kept, 4))
        if not self._n_kept:
            return times
        return times[: library().dure_allreduce_times(ctypes.c_void_p(times.ctypes.data))]


class Sums:
    """This rank's end of the sums. Needs MPI to be initialized; one a process.

    `points`: where a partial vector stands, see `Architecture.reduction_points`.
    `max_values`: of a vector; what the sums need is allocated for it here, and no more later.
    `wait_s`: no rank waits longer than this for another.
    `two_phase_above`: bytes of an encoded vector above which it is scattered, then gathered; None:
    what is quicker on these links, as measured now.
    `staged`: copy every tensor out and in, as for device memory (for tests).
    `noted`: when the sums of a step were.
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
        if status != Status.OK:
            raise EngineError(f"the sums cannot start: {Status(status).name}")
        self._wait_s, self.noted = wait_s, SumTimes()
        self._begin, self._end = library().dure_allreduce_begin, library().dure_allreduce_end
        self._stats = _Stats()
        self._stats_pointer = ctypes.byref(self._stats)

    def begin(self) -> None:
        """Forget the last step's figures."""
        self._begin()

    def end(self) -> SumStats:
        """The step's figures. Raises EngineError where a sum failed."""
        stats = self._stats
        self._end(self._stats_pointer)
        if stats.status:
            raise self._failure(stats)
        return SumStats(stats.sync_s, stats.bytes_sent, stats.n_sums)

    def _failure(self, stats: _Stats) -> EngineError:
        if stats.status != Status.DEADLINE:
            return EngineError(f"a sum over the ranks failed: {Status(stats.status).name}")
        late = f"rank {stats.waiting_for}" if stats.waiting_for >= 0 else "another rank"
        return EngineError(
            f"{late} did not answer within {self._wait_s:g} s: is its machine on, and its cable in?"
        )

    def close(self) -> None:
        """Give the memory back, and take back the receives that are posted."""
        library().dure_allreduce_stop()

    def sum(self, x: Floats) -> None:
        """Sum x (float32, a multiple of 32 elements) over all ranks, in place."""
        library().dure_allreduce(ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(x.size))
        self.end()


def exchange_seconds(n_bytes: int, repeats: int) -> float:
    """Mean seconds of one exchange of n_bytes with every other rank. All ranks call it at once."""
    seconds = float(
        library().dure_exchange_seconds(ctypes.c_size_t(n_bytes), ctypes.c_int(repeats))
    )
    if math.isnan(seconds):
        raise EngineError("an exchange between the ranks failed")
    return seconds


def read_bytes_per_s(n_threads: int) -> float:
    """How fast so many threads read memory while those of the other ranks do. All ranks call it at once; a
    process without `Sums` is alone.

    Ranks of one machine share its memory, as they do when they compute. The mean of many reads, as a run's
    speed is the mean of many tokens: there are machines whose memory is twice as fast at some moments.
    """
    x = np.ones(READ_BYTES // 4, np.float32)
    pointer, n = ctypes.c_void_p(x.ctypes.data), ctypes.c_size_t(x.size)
    tries = [
        float(library().dure_read_bytes_per_second(pointer, n, n_threads)) for _ in range(READS)
    ]
    return statistics.harmonic_mean(tries)
