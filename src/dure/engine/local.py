"""The executor of one process: the whole model, no other ranks, no all-reduce."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from dure.engine.compute.allreduce import ReductionTimes, read_bytes_per_s
from dure.engine.compute.embedding_table import EmbeddingTable
from dure.engine.compute.expert_choices import ExpertChoices
from dure.engine.compute.llama import LoadedModel
from dure.engine.compute.memory import peak_bytes
from dure.engine.compute.sharing import StepTimes
from dure.engine.compute.top_k import adjust, merge_top_k, slice_top_k
from dure.engine.executor import (
    Adjustment,
    Batch,
    ExecutorInfo,
    Floats,
    InputSums,
    RankFacts,
    SavedSequences,
    StepResult,
    StepStats,
    TopK,
    check_batch,
    nothing,
)
from dure.engine.limits import Limits
from dure.engine.saved.sequence_files import RankFiles
from dure.engine.thread_watch import ThreadWatch
from dure.engine.trace import MOST_PASSES, RankTrace, StepTrace
from dure.errors import UsageError

__all__ = ["LocalExecutor"]


class LocalExecutor:
    """Runs a model of any architecture that llama.cpp knows, in this process.

    reduction_points: where attention and feed-forward of each layer end, as `Architecture` has them; () if
    there is no table, and then it cannot be traced.
    table: reads tokens' embeddings from the file, so that the model's own table is not held twice. It is
    closed here.
    Raises ModelError or ResourceError if it cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        *,
        kv_bytes: int = 0,
        reduction_points: tuple[str, ...] = (),
        table: EmbeddingTable | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        limits = replace(limits, given_embeddings=table is not None)
        with ExitStack() as unused:
            if table:
                unused.callback(table.close)
            self._model = LoadedModel(path, limits, progress=progress)
            self._table = table if self._model.lacks_table else None
            if self._table:
                unused.pop_all()
        self._name, self._points, self._times = path.name, reduction_points, ReductionTimes()
        self._choices = ExpertChoices()
        self._steps: list[StepTrace] | None = None  # while traced
        self._kv_bytes, self._files = kv_bytes, RankFiles(0)
        self._outputs: tuple[int, ...] = ()
        self._last_end = time.monotonic()
        self._watch = ThreadWatch()
        self.info = ExecutorInfo(
            n_ranks=1,
            n_vocab=self._model.n_vocab,
            n_ctx=limits.n_ctx,
            n_batch=limits.n_batch,
            n_sequences=limits.n_sequences,
            n_outputs=limits.n_outputs,
            threads=(limits.threads,),
            can_forget=self._model.can_forget,
            n_window=self._model.n_window,
        )

    def step(self, batch: Batch, meanwhile: Callable[[], None] = nothing) -> StepResult:
        """Decode a batch; see `Executor.step`."""
        check_batch(batch, self.info)
        meanwhile()
        spent = StepTimes()
        start = spent.begun
        if self._steps is not None:
            self._times.begin()
        self._model.kv.change(batch.kv)
        self._outputs = tuple(batch.outputs)
        self._model.want_embeddings(batch.embed)
        if batch.tokens.size:
            self._model.adapters.use(batch.adapters)
            inputs = batch.tokens if self._table is None else self._table.rows(batch.tokens)
            self._model.decode(inputs, batch.positions, batch.sequences, batch.outputs)
        rows = () if batch.embed else self._rows(batch)
        embeddings = self._model.embeddings(batch.outputs) if batch.embed else None
        end = time.monotonic()
        idle_s, self._last_end = start - self._last_end, end
        given_up, lost = self._model.share_processors(spent, batch.tokens.size, 0.0)
        self._watch.see([given_up])
        stats = StepStats((end - start,), (0.0,), (idle_s,), (0.0,), (given_up,), (lost,))
        if self._steps is not None and batch.tokens.size:
            times, experts = self._times.recorded(), self._choices.noted()
            self._steps.append(StepTrace(start, end, times, experts))
        return StepResult(rows, stats, embeddings)

    def _rows(self, batch: Batch) -> tuple[TopK, ...]:
        changes = batch.adjust or [None] * len(batch.outputs)
        return tuple(
            self._row(self._model.logits(i), change, batch.top_k)
            for i, change in zip(batch.outputs, changes, strict=True)
        )

    def _row(self, logits: Floats, change: Adjustment | None, k: int) -> TopK:
        adjust(logits, change, 0)
        return merge_top_k([slice_top_k(logits, k, 0)], k, self.info.n_vocab)

    def logits(self, row: int) -> Floats:
        """Return all logits of an output row; see `Executor.logits`."""
        return np.array(self._model.logits(self._outputs[row]))

    def save(self, sequence: int, path: str) -> int:
        """Write a sequence's KV cache; see `SequenceFiles.save`."""
        return self._model.kv.save(sequence, self._files.file(path))

    def load(self, sequence: int, path: str, n_tokens: int) -> bool:
        """Read back a sequence's KV cache; see `SequenceFiles.load`."""
        return self._model.kv.load(sequence, self._files.file(path), n_tokens)

    def keep_only(self, directory: str, keys: Sequence[str]) -> list[SavedSequences]:
        """Delete what else was saved in a directory; see `SequenceFiles.keep_only`."""
        keys_here, free_bytes = self._files.keep_only(directory, keys)
        return [SavedSequences(frozenset(keys_here), free_bytes)]

    def drop(self, path: str) -> None:
        """Delete a saved sequence; see `SequenceFiles.drop`."""
        self._files.drop(path)

    def load_adapter(self, files: Sequence[str], number: int | None = None) -> int:
        """Load an adapter; see `Adapters.load_adapter`."""
        number = self.info.adapters.n_given if number is None else number
        self._model.adapters.load(number, Path(files[0]))
        self.info = replace(self.info, adapters=self.info.adapters.plus(number))
        return number

    def drop_adapter(self, number: int) -> None:
        """Free an adapter; see `Adapters.drop_adapter`."""
        self._model.adapters.drop(number)
        self.info = replace(self.info, adapters=self.info.adapters.minus(number))

    def set_threads(self, threads: Sequence[int]) -> None:
        """Set the threads that decode; see `Instruments.set_threads`."""
        self._model.set_threads(threads[0])
        self.info = replace(self.info, threads=tuple(threads))

    def watch_threads(self, changed: Callable[[Sequence[int]], None]) -> None:
        """Tell when threads are given up; see `Instruments.watch_threads`."""
        self._watch.changed = changed

    def trace(self, *, experts: bool = False) -> None:
        """Record the times of every step; see `Instruments.trace`."""
        if not self._points:
            raise UsageError(
                f"{self._name} is of an architecture whose layers dure cannot tell apart",
                "leave out --trace",
            )
        self._steps = []
        self._times.record_whole(self._points, MOST_PASSES * 2 * self._model.n_layer)
        self._choices.note(self._model.n_layer if experts else 0)

    def traced(self) -> list[RankTrace]:
        """Return what was recorded since `trace`."""
        self._times.record(0)
        self._choices.note(0)
        steps, self._steps = self._steps or [], None
        return [RankTrace(0.0, tuple(steps))]

    def probe(self, _n_bytes: int, /) -> tuple[list[float], float]:
        """Measure how fast this process reads memory; nothing is exchanged. See `Instruments.probe`."""
        return [read_bytes_per_s(self.info.threads[0])], 0.0

    def gather_inputs(self, *, on: bool) -> InputSums:
        """Gather what weights are multiplied with; see `InputGathering.gather_inputs`."""
        return self._model.inputs.gather(on=on)

    def facts(self) -> list[RankFacts]:
        """Return what this process holds."""
        return [
            RankFacts(socket.gethostname(), self._model.weights_bytes, self._kv_bytes, peak_bytes())
        ]

    def close(self) -> None:
        """Free the model."""
        self._model.close()
        if self._table is not None:
            self._table.close()
