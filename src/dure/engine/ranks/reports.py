"""How ranks and rank 0 tell their messages apart, and how a rank reports a step.

A report is the rank's figures, then for every output row the log-sum-exp, ids and logits of the best of
its slice: as many bytes as rank 0 waits for.
"""

from __future__ import annotations

import struct

import numpy as np

from dure.engine.compute.top_k import SliceBest

__all__ = [
    "CLOCK_ASKS",
    "TAG_CLOCK",
    "TAG_REPORT",
    "TAG_STEP",
    "pack_report",
    "read_report",
    "report_size",
]

TAG_STEP, TAG_REPORT, TAG_CLOCK = 1, 2, 3  # of MPI
CLOCK_ASKS = 64  # messages with TAG_CLOCK, each way

_STATS = struct.Struct("<4d")
_SUM = struct.Struct("<d")  # the head of each row


def pack_report(stats: tuple[float, ...], best: list[SliceBest]) -> bytes:
    """A step's figures, and the best of each of its output rows, as bytes."""
    parts = [_STATS.pack(*stats)]
    for ids, logits, log_sum_exp in best:
        parts += [_SUM.pack(log_sum_exp), ids.tobytes(), logits.tobytes()]
    return b"".join(parts)


def report_size(n_rows: int, k: int) -> int:
    """Bytes of a report of n_rows rows with k tokens each."""
    return _STATS.size + n_rows * (_SUM.size + 8 * k)


def read_report(data: bytes, n_rows: int, k: int) -> tuple[tuple[float, ...], list[SliceBest]]:
    """What `pack_report` was given: the figures, and the best k of n_rows rows."""
    best: list[SliceBest] = []
    for row in range(n_rows):
        at = report_size(row, k)
        (log_sum_exp,) = _SUM.unpack_from(data, at)
        ids = np.frombuffer(data, np.int32, k, at + _SUM.size)
        logits = np.frombuffer(data, np.float32, k, at + _SUM.size + ids.nbytes)
        best.append((ids, logits, log_sum_exp))
    return _STATS.unpack_from(data), best
