"""How many threads decode a model's tokens soonest on these machines: measured once, and kept.

A token is bound by memory, which fewer threads than cores may use up; and where other programs want a core
too, a thread less is quicker, for all wait for the last one. Prompts take all cores in any case.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from dure.engine.executor import Batch, Executor, Instruments
from dure.engine.kv import Clear
from dure.whole_file import write_whole

__all__ = ["candidates", "tune_threads"]

WARM_UP, STEPS = 1, 6
ENOUGH_S = 5.0  # of measuring: a start is not to wait for long
WORTH = 0.97  # of the time with fewer threads, or these are enough
MOST_KEPT = 200  # models


class _Tunable(Executor, Instruments, Protocol):
    """An executor whose threads can be set."""


def tune_threads(executor: _Tunable, key: str, file: Path, *, may_measure: bool = True) -> None:
    """Let each rank decode with as many threads as is quickest.

    key: of the model and its cut; what was measured for it stands in `file`, or is measured and noted
    there, where that may take time. The KV cache must be empty, and is empty afterwards.
    """
    most = executor.info.threads
    known = _read(file)
    chosen = known.get(key, [])
    if len(chosen) != len(most) or any(n > m for n, m in zip(chosen, most, strict=True)):
        if not may_measure:
            return
        chosen = _measured(executor, most)
        known[key] = chosen
        _write(file, dict(list(known.items())[-MOST_KEPT:]))
    executor.set_threads(chosen)


def candidates(most: int) -> list[int]:
    """Numbers of threads that are worth trying, most first."""
    return sorted({most, max(1, most - 1), max(1, most // 2), 1}, reverse=True)


def _measured(executor: _Tunable, most: Sequence[int]) -> list[int]:
    """For each rank the number of threads with which it computed a token soonest."""
    tried = [candidates(n) for n in most]
    best = [float("inf")] * len(most)
    chosen = list(most)
    give_up = time.monotonic() + ENOUGH_S
    for i in range(max(map(len, tried))):
        threads = [rank[min(i, len(rank) - 1)] for rank in tried]
        executor.set_threads(threads)
        took = np.min([_step(executor, n) for n in range(WARM_UP + STEPS)][WARM_UP:], axis=0)
        for rank, seconds in enumerate(took):
            if seconds < best[rank] / WORTH:  # as quick with fewer
                best[rank], chosen[rank] = min(best[rank], float(seconds)), threads[rank]
        if time.monotonic() > give_up:
            break
    nothing = np.zeros(0, np.int32)
    executor.step(Batch(nothing, nothing, nothing, top_k=1, kv=[Clear()]))
    return chosen


def _step(executor: _Tunable, position: int) -> tuple[float, ...]:
    """Seconds that each rank computed for one token."""
    one = np.ones(1, np.int32)
    batch = Batch(one, one * position, one * 0, [0], 1, [Clear()] if position == 0 else ())
    return executor.step(batch).stats.compute_s


def _read(file: Path) -> dict[str, list[int]]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, list[int]])
    except (OSError, msgspec.MsgspecError):
        return {}  # it is measured again


def _write(file: Path, known: dict[str, list[int]]) -> None:
    with contextlib.suppress(OSError):  # then it is measured at every start
        write_whole(file, msgspec.json.encode(known))
