"""Gathers an importance matrix from a running model, chunk by chunk; what was stopped goes on.

The sums of every few chunks are added to those before and written down, so that a run in two parts gives
the same bits as one. Refuses to know where the text comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from dure.convert.importance import Importance, InputSquares
from dure.engine.arrays import InputSums, Ints
from dure.engine.executor import Batch, Executor, InputGathering
from dure.engine.kv import Clear
from dure.errors import ModelError

__all__ = ["SAVED_EVERY", "GatheringExecutor", "gather_importance", "n_unseen_experts"]

SAVED_EVERY = 8  # chunks


class GatheringExecutor(Executor, InputGathering, Protocol):
    """A running model whose inputs can be gathered."""


def gather_importance(
    executor: GatheringExecutor,
    chunks: Ints,
    begun: Importance,
    weights: Collection[str],
    *,
    save: Callable[[Importance], None],
    progress: Callable[[int], None] = lambda _: None,
) -> Importance:
    """Return the importance matrix of a model. chunks: int32 [n_chunks, chunk_size].

    begun: of the first chunks, by an earlier run. weights: the names of the model's own.
    save: is called with what there is after every few chunks. progress: with the tokens done.
    Raises ModelError if a number is not finite.
    """
    importance, n = begun, len(chunks)
    if importance.n_chunks < n:
        executor.gather_inputs(on=True)
    for number in range(importance.n_chunks, n):
        for done in _computed(executor, chunks[number]):
            progress(number * chunks.shape[1] + done)
        is_last = number + 1 == n
        if is_last or (number + 1) % SAVED_EVERY == 0:
            found = executor.gather_inputs(on=not is_last)
            own = {name: sums for name, sums in found.items() if name in weights}
            squares = _added(importance.squares, own)
            importance = replace(importance, squares=squares, n_chunks=number + 1)
            save(importance)
    return importance


def n_unseen_experts(importance: Importance) -> int:
    """Count the experts that no token came to, each of a layer once."""
    unseen = {
        (name.split(".")[1], int(expert))
        for name, squares in importance.squares.items()
        for expert in np.flatnonzero(squares.counts == 0)
    }
    return len(unseen)


def _computed(executor: Executor, chunk: Ints) -> Iterator[int]:
    """Compute a chunk, all of it outputs: the last layer leaves others out. Yield the tokens done."""
    at_once = min(executor.info.n_outputs, executor.info.n_batch)
    for start in range(0, len(chunk), at_once):
        tokens = chunk[start : start + at_once]
        n = len(tokens)
        positions = np.arange(start, start + n, dtype=np.int32)
        kv = [] if start else [Clear()]
        executor.step(Batch(tokens, positions, np.zeros(n, np.int32), range(n), top_k=1, kv=kv))
        yield start + n


def _added(before: Mapping[str, InputSquares], more: InputSums) -> dict[str, InputSquares]:
    total = dict(before)
    for name, (sums, counts) in more.items():
        if not np.isfinite(sums).all():
            raise ModelError(
                f"{name} is multiplied with numbers that are not finite", "is the file damaged?"
            )
        old = total.get(name, InputSquares(np.zeros_like(sums), np.zeros_like(counts)))
        total[name] = InputSquares(old.sums + sums, old.counts + counts)
    return total
