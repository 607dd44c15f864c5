"""How a rank reports a step to rank 0, as bytes, and how MPI tells their messages apart.

A report is the rank's figures, then for every output row the log-sum-exp, ids and logits of its slice's
top k: as many bytes as rank 0 waits for. Knows that layout alone.
"""

from __future__ import annotations

import struct

import numpy as np

from dure.engine.compute.top_k import SliceTopK
from dure.engine.ranks.messages import RankStats

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

_STATS = struct.Struct("<4did")
_LOG_SUM_EXP = struct.Struct("<d")  # the head of each row


def pack_report(stats: RankStats, rows: list[SliceTopK]) -> bytes:
    """Make bytes of a step's figures and the top k of each of its output rows."""
    parts = [_STATS.pack(*stats)]
    for ids, logits, log_sum_exp in rows:
        parts += [_LOG_SUM_EXP.pack(log_sum_exp), ids.tobytes(), logits.tobytes()]
    return b"".join(parts)


def report_size(n_rows: int, k: int) -> int:
    """Return the bytes of a report of n_rows rows with k tokens each."""
    return _STATS.size + n_rows * (_LOG_SUM_EXP.size + 8 * k)


def read_report(data: bytes, n_rows: int, k: int) -> tuple[RankStats, list[SliceTopK]]:
    """Return what `pack_report` was given: the figures, and the top k of n_rows rows."""
    rows: list[SliceTopK] = []
    for row in range(n_rows):
        at = report_size(row, k)
        (log_sum_exp,) = _LOG_SUM_EXP.unpack_from(data, at)
        ids = np.frombuffer(data, np.int32, k, at + _LOG_SUM_EXP.size)
        logits = np.frombuffer(data, np.float32, k, at + _LOG_SUM_EXP.size + ids.nbytes)
        rows.append((ids, logits, log_sum_exp))
    stats: RankStats = _STATS.unpack_from(data)
    return stats, rows
