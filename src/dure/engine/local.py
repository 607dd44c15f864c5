"""The executor of one process: the whole model, no ranks, no sums."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dure.engine.compute.allreduce import SumTimes, read_bytes_per_s
from dure.engine.compute.llama import Limits, LoadedModel
from dure.engine.compute.memory import peak_bytes
from dure.engine.compute.top_k import adjust, best_of_slice, merge
from dure.engine.executor import (
    Adjustment,
    Batch,
    Candidates,
    ExecutorInfo,
    Floats,
    RankFacts,
    RankKept,
    StepResult,
    StepStats,
    check_batch,
    nothing,
)
from dure.engine.instruments.trace import MOST_PASSES, RankTrace, StepTrace
from dure.engine.saved.sequence_files import KeptFiles
from dure.errors import UsageError

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """Runs a model of any architecture that llama.cpp knows, in this process.

    points: where attention and feed-forward of each layer end, `Architecture.reduction_points`; () if
    there is no table, and then it cannot be traced.
    Raises ModelError or ResourceError where it cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        *,
        kv_bytes: int = 0,
        points: tuple[str, ...] = (),
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._model = LoadedModel(path, limits, progress=progress)
        self._name, self._points, self._noted = path.name, points, SumTimes()
        self._steps: list[StepTrace] | None = None  # while traced
        self._kv_bytes, self._kept = kv_bytes, KeptFiles(0)
        self._outputs: tuple[int, ...] = ()
        self._last_end = time.monotonic()
        self.info = ExecutorInfo(
            n_ranks=1,
            n_vocab=self._model.n_vocab,
            n_ctx=limits.n_ctx,
            n_batch=limits.n_batch,
            n_sequences=limits.n_sequences,
            n_outputs=limits.n_outputs,
            threads=(limits.threads,),
            can_forget=self._model.can_forget,
        )

    def step(self, batch: Batch, meanwhile: Callable[[], None] = nothing) -> StepResult:
        """Decode a batch; see `Executor.step`."""
        check_batch(batch, self.info)
        meanwhile()
        start = time.monotonic()
        if self._steps is not None:
            self._noted.begin()
        self._model.change_kv(batch.kv)
        self._outputs = tuple(batch.outputs)
        self._model.want_embeddings(batch.embed)
        if batch.tokens.size:
            self._model.decode(batch.tokens, batch.positions, batch.sequences, batch.outputs)
        rows = () if batch.embed else self._rows(batch)
        embeddings = self._model.embeddings(batch.outputs) if batch.embed else None
        end = time.monotonic()
        stats = StepStats((end - start,), (0.0,), (start - self._last_end,), (0.0,))
        self._last_end = end
        if self._steps is not None and batch.tokens.size:
            self._steps.append(StepTrace(start, end, self._noted.told()))
        return StepResult(rows, stats, embeddings)

    def _rows(self, batch: Batch) -> tuple[Candidates, ...]:
        changes = batch.adjust or [None] * len(batch.outputs)
        return tuple(
            self._row(self._model.logits(i), change, batch.n_best)
            for i, change in zip(batch.outputs, changes, strict=True)
        )

    def _row(self, logits: Floats, change: Adjustment | None, n_best: int) -> Candidates:
        adjust(logits, change, 0)
        return merge([best_of_slice(logits, n_best, 0)], n_best, self.info.n_vocab)

    def logits(self, row: int) -> Floats:
        """All logits of an output row of the last step: float32 [n_vocab]."""
        return np.array(self._model.logits(self._outputs[row]))

    def save(self, sequence: int, path: str) -> int:
        """Write a sequence's KV cache; see `SequenceFiles.save`."""
        return self._model.save(sequence, self._kept.file(path))

    def load(self, sequence: int, path: str, n_tokens: int) -> bool:
        """Read back a sequence's KV cache; see `SequenceFiles.load`."""
        return self._model.load(sequence, self._kept.file(path), n_tokens)

    def keep_only(self, directory: str, keys: Sequence[str]) -> list[RankKept]:
        """Delete what else was saved in a directory; see `SequenceFiles.keep_only`."""
        found, free_bytes = self._kept.keep_only(directory, keys)
        return [RankKept(frozenset(found), free_bytes)]

    def drop(self, path: str) -> None:
        """Delete what was saved."""
        self._kept.drop(path)

    def set_threads(self, threads: Sequence[int]) -> None:
        """Decode with so many threads; see `Instruments.set_threads`."""
        self._model.set_threads(threads[0])
        self.info = replace(self.info, threads=tuple(threads))

    def trace(self) -> None:
        """Note the times of every step from now on; see `Instruments.trace`."""
        if not self._points:
            raise UsageError(
                f"{self._name} is of an architecture whose layers dure cannot tell apart: leave out --trace"
            )
        self._steps = []
        self._noted.keep_of(self._points, MOST_PASSES * 2 * self._model.n_layer)

    def traced(self) -> list[RankTrace]:
        """What was noted since `trace`."""
        self._noted.keep(0)
        steps, self._steps = self._steps or [], None
        return [RankTrace(0.0, tuple(steps))]

    def probe(self, _n_bytes: int, /) -> tuple[list[float], float]:
        """Bytes of memory that this process's threads read in a second; nothing is exchanged."""
        return [read_bytes_per_s(self.info.threads[0])], 0.0

    def facts(self) -> list[RankFacts]:
        """What this process holds."""
        return [
            RankFacts(socket.gethostname(), self._model.weights_bytes, self._kv_bytes, peak_bytes())
        ]

    def close(self) -> None:
        """Free the model."""
        self._model.close()
