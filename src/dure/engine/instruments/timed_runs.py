"""Times prefill and decode on an executor, as `llama-bench` does. Refuses to know how figures are shown."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.engine.executor import Batch, Executor, Ints, StepStats
from dure.engine.kv import Forget, KeepState, KvOp, RestoreState

__all__ = ["TimedRuns"]

_DEPTH = "depth"  # names the state there


class TimedRuns:
    """Runs prompts and generations, each from a KV cache of `depth` tokens.

    tokens: int32 [depth + the longest run]. adapters: what they are computed with.
    """

    def __init__(
        self, executor: Executor, tokens: Ints, depth: int, adapters: AdapterSet = NO_ADAPTERS
    ) -> None:
        self._executor, self._tokens, self._depth = executor, tokens, depth
        self._adapters = adapters
        self._keeps_all = executor.info.can_forget and not executor.info.n_window
        self._positions = np.arange(len(tokens), dtype=np.int32)
        self._sequences = np.zeros(len(tokens), np.int32)

    def fill(self) -> None:
        """Fill the KV cache up to the depth, whatever it held."""
        self._change(Forget(0))
        self._decode(0, self._depth)
        if self._depth and not self._keeps_all:
            self._change(KeepState(0, _DEPTH))

    def prompt(self, n: int) -> float:
        """Return the seconds of prefill of n tokens in the largest batches, with the last logits."""
        self._return()
        start = time.perf_counter()
        self._decode(self._depth, self._depth + n)
        return time.perf_counter() - start

    def _decode(self, begin: int, end: int) -> None:
        n_batch = self._executor.info.n_batch
        for first in range(begin, end, n_batch):
            stop = min(first + n_batch, end)
            self._step(first, stop, [stop - first - 1] if stop == end else [])

    def generate(self, n: int) -> tuple[float, list[StepStats]]:
        """Return the seconds of decoding n tokens one after the other, and each step's figures."""
        self._return()
        start = time.perf_counter()
        first = self._depth
        stats = [self._step(i, i + 1, [0]) for i in range(first, first + n)]
        return time.perf_counter() - start, stats

    def _step(self, first: int, stop: int, outputs: Sequence[int]) -> StepStats:
        batch = Batch(
            self._tokens[first:stop],
            self._positions[first:stop],
            self._sequences[first:stop],
            outputs,
            top_k=1,
            adapters=self._adapters,
        )
        return self._executor.step(batch).stats

    def _return(self) -> None:
        """Cut the sequence back to the depth."""
        if self._depth and not self._keeps_all:
            self._change(RestoreState(0, _DEPTH, self._depth))
        else:
            self._change(Forget(0, self._depth))

    def _change(self, op: KvOp) -> None:
        nothing = np.zeros(0, np.int32)
        self._executor.step(Batch(nothing, nothing, nothing, kv=[op]))
