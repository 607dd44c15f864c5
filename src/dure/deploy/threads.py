"""Finds how many threads decode a model's tokens fastest on these machines; measured once and saved.

Decoding is bound by memory bandwidth, which fewer threads than cores may saturate. Prefill uses all cores.
If other programs need some, ranks give up threads by themselves (`engine.compute.sharing`); what is
measured meanwhile is not saved.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from dure.deploy.reporter import Reporter
from dure.engine.executor import Batch, Executor, Instruments, StepStats
from dure.engine.kv import Clear
from dure.whole_file import write_whole

__all__ = ["candidates", "tell_of_threads", "tune_threads"]

WARM_UP, STEPS = 1, 6
ENOUGH_S = 5.0  # of measuring, so that a start does not take long
WORTH = 0.97  # the least gain that pays for more threads: 3 % of the time
MOST_SAVED = 200  # models


class _Tunable(Executor, Instruments, Protocol):
    """An executor whose threads can be set."""


def tune_threads(executor: _Tunable, key: str, file: Path, *, may_measure: bool = True) -> None:
    """Make each rank decode with the fastest number of threads.

    key: of the model and its cut. Its numbers are read from `file`, or measured and saved there if
    may_measure. The KV cache must be empty, and is empty afterwards.
    """
    most = executor.info.threads
    known = _read(file)
    chosen = known.get(key, [])
    if len(chosen) != len(most) or any(n > m for n, m in zip(chosen, most, strict=True)):
        if not may_measure:
            return
        chosen = _measured(executor, most)
        if chosen:
            known[key] = chosen
            _write(file, dict(list(known.items())[-MOST_SAVED:]))
    executor.set_threads(chosen or most)


def tell_of_threads(
    executor: Instruments, full: Sequence[int], machines: Sequence[str], reporter: Reporter
) -> None:
    """Report it, once, when ranks give up some of their `full` threads. machines: of the ranks, by name."""
    told = False

    def changed(given_up: Sequence[int]) -> None:
        nonlocal told
        if not told:
            told = True
            fewer = [
                f"{most - less} instead of {most} threads on {machine}"
                for less, most, machine in zip(given_up, full, machines, strict=True)
                if less
            ]
            reporter.news(f"other programs are using the processors: {', '.join(fewer)} for now")

    executor.watch_threads(changed)


def candidates(most: int) -> list[int]:
    """Return the numbers of threads to try, largest first."""
    return sorted({most, max(1, most - 1), max(1, most // 2), 1}, reverse=True)


def _measured(executor: _Tunable, most: Sequence[int]) -> list[int]:
    """Return for each rank the number of threads that computed a token fastest; none if other programs
    needed processors meanwhile.
    """
    tried = [candidates(n) for n in most]
    best = [float("inf")] * len(most)
    chosen = list(most)
    give_up, is_disturbed = time.monotonic() + ENOUGH_S, False
    for i in range(max(map(len, tried))):
        threads = [rank[min(i, len(rank) - 1)] for rank in tried]
        executor.set_threads(threads)
        steps = [_step(executor, n) for n in range(WARM_UP + STEPS)][WARM_UP:]
        is_disturbed |= sum(step.is_disturbed for step in steps) > STEPS / 2
        took = np.min([step.compute_s for step in steps], axis=0)
        for rank, seconds in enumerate(took):
            if seconds < best[rank] / WORTH:  # fewer threads are as fast
                best[rank], chosen[rank] = min(best[rank], float(seconds)), threads[rank]
        if time.monotonic() > give_up:
            break
    nothing = np.zeros(0, np.int32)
    executor.step(Batch(nothing, nothing, nothing, top_k=1, kv=[Clear()]))
    return [] if is_disturbed else chosen


def _step(executor: _Tunable, position: int) -> StepStats:
    """Compute one token."""
    one = np.ones(1, np.int32)
    batch = Batch(one, one * position, one * 0, [0], 1, [Clear()] if position == 0 else ())
    return executor.step(batch).stats


def _read(file: Path) -> dict[str, list[int]]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, list[int]])
    except (OSError, msgspec.MsgspecError):
        return {}  # so it is measured again


def _write(file: Path, known: dict[str, list[int]]) -> None:
    with contextlib.suppress(OSError):  # without the file, every start measures
        write_whole(file, msgspec.json.encode(known))
