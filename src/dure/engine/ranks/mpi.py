"""The executor of several ranks: it asks rank 0, and turns answers into results.

Knows the requests and how long each may take. Refuses to know processes (`running_job`, `launch`) and
tensors (`rank_process`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from dure.engine.arrays import Floats
from dure.engine.executor import (
    Batch,
    ExecutorInfo,
    InputSums,
    RankFacts,
    SavedSequences,
    StepResult,
    StepStats,
    TopK,
    check_batch,
    nothing,
)
from dure.engine.kv import Forget
from dure.engine.limits import Limits, OffloadedLayers
from dure.engine.ranks import messages as msg
from dure.engine.ranks.job import Job
from dure.engine.ranks.launch import Launch, LocalLaunch
from dure.engine.ranks.running_job import RunningJob
from dure.engine.thread_watch import ThreadWatch
from dure.engine.trace import RankTrace, StepTrace
from dure.engine.wire import Wire
from dure.errors import ModelError, ResourceError, UsageError
from dure.model.architectures import Along
from dure.model.context import moving_window
from dure.model.cut import CutPlan

__all__ = ["MpiExecutor", "MpiOptions"]

WAIT_S = 30.0  # for another rank, within a step; DURE_STEP_TIMEOUT
FILES_S = 300.0  # for writing or reading a long sequence on a slow disk


class MpiOptions(msgspec.Struct, frozen=True):
    """How ranks talk to each other.

    wait_s: how long one rank waits for another before the job ends; None: DURE_STEP_TIMEOUT, or 30.
    two_phase_above: see `AllReduce`; None: as measured.
    staged: copy tensors out and in as if they lay in device memory.
    """

    wire: Wire = Wire.Q8
    wait_s: float | None = None
    two_phase_above: float | None = None
    staged: bool = False


class MpiExecutor:
    """Runs a model that was cut over several ranks, here or on the machines where `launch` starts them.

    `model`: the whole model, for embedding rows; `shards`: a rank's GGUF each, cut by `plan`.
    `limits.threads` is one rank's, `threads` every rank's if they differ; `kv_bytes`: a rank's KV
    cache each, as planned; `gpus`: what of each rank lies on a GPU, empty if nothing does.
    Raises the error of the rank that could not load, ResourceError if mpiexec is missing.
    """

    def __init__(
        self,
        model: Path,
        shards: Sequence[Path],
        plan: CutPlan,
        limits: Limits,
        *,
        options: MpiOptions | None = None,
        threads: Sequence[int] = (),
        kv_bytes: Sequence[int] = (),
        gpus: Sequence[OffloadedLayers] = (),
        launch: Launch | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        options, launch = options or MpiOptions(), launch or LocalLaunch()
        threads = tuple(threads) or (limits.threads,) * len(shards)
        self._wait_s = options.wait_s or _wait_s()
        self._watch = ThreadWatch()
        self._kv_bytes = kv_bytes or [0] * len(shards)
        self.info = ExecutorInfo(
            n_ranks=len(shards),
            n_vocab=plan.shape.n_vocab,
            n_ctx=limits.n_ctx,
            n_batch=limits.n_batch,
            n_sequences=limits.n_sequences,
            n_outputs=limits.n_outputs,
            threads=threads,
            n_window=moving_window(plan.shape.cache.n_window, limits.n_ctx),
            transport=launch.transport,
        )
        job = _job(model, shards, plan, limits, threads, gpus, options, self._wait_s)
        self._job = RunningJob(job, launch, progress)
        self._cut_inputs = [f".{name}" for name in plan.architecture.weights_with_cut_inputs]

    def step(self, batch: Batch, meanwhile: Callable[[], None] = nothing) -> StepResult:
        """Decode a batch; see `Executor.step`."""
        check_batch(batch, self.info)
        # Every all-reduce may wait; but a step whose answer takes longer than all this has lost rank 0.
        patience_s = 4 * self._wait_s + 2.0 * len(batch.tokens)
        done = self._job.ask(msg.step_request(batch), msg.StepDone, patience_s, meanwhile)
        stats = StepStats(*zip(*done.stats, strict=True))
        self._watch.see(stats.given_up)
        return StepResult(
            tuple(self._top_k(row) for row in done.rows),
            stats,
            self._embeddings(done.embeddings, len(batch.outputs)) if batch.embed else None,
        )

    def _embeddings(self, data: bytes, n: int) -> Floats:
        return np.frombuffer(data, np.float32).reshape(n, -1)

    def _top_k(self, row: msg.TopKRow) -> TopK:
        ids = np.frombuffer(row.ids, np.int32)
        whole = len(ids) == self.info.n_vocab
        return TopK(ids, np.frombuffer(row.logits, np.float32), row.log_sum_exp, whole)

    def logits(self, row: int) -> Floats:
        """Return all logits of an output row; see `Executor.logits`."""
        done = self._job.ask(msg.GetLogits(row), msg.Logits, 4 * self._wait_s)
        return np.frombuffer(done.values, np.float32)

    def save(self, sequence: int, path: str) -> int:
        """Write a sequence's KV cache; see `SequenceFiles.save`."""
        saved = self._job.ask(msg.SaveSequence(sequence, path), msg.SequenceSaved, FILES_S)
        written = [n for n in saved.ranks if n is not None]
        if len(written) < len(saved.ranks):
            self.drop(path)
            raise ResourceError(f"the cache {path} cannot be written", "make room there")
        return sum(written)

    def load(self, sequence: int, path: str, n_tokens: int) -> bool:
        """Read back a sequence's KV cache; see `SequenceFiles.load`."""
        loaded = self._job.ask(
            msg.LoadSequence(sequence, path, n_tokens), msg.SequenceLoaded, FILES_S
        )
        if all(loaded.ranks):
            return True
        none = np.zeros(0, np.int32)
        self.step(Batch(none, none, none, kv=[Forget(sequence)]))
        return False

    def keep_only(self, directory: str, keys: Sequence[str]) -> list[SavedSequences]:
        """Delete what else was saved in a directory; see `SequenceFiles.keep_only`."""
        kept = self._job.ask(msg.KeepSequences(directory, list(keys)), msg.SequencesKept, FILES_S)
        return [SavedSequences(frozenset(keys), free) for keys, free in kept.ranks]

    def drop(self, path: str) -> None:
        """Delete a saved sequence; see `SequenceFiles.drop`."""
        self._job.ask(msg.DropSequence(path), msg.RequestDone, FILES_S)

    def load_adapter(self, files: Sequence[str], number: int | None = None) -> int:
        """Load an adapter into every rank; see `Adapters.load_adapter`."""
        number = self.info.adapters.n_given if number is None else number
        done = self._job.ask(msg.LoadAdapter(number, list(files)), msg.AdapterLoaded, FILES_S)
        for rank, problem in enumerate(done.ranks):
            if problem:
                self.drop_adapter(number)  # where it was loaded
                raise ModelError(f"rank {rank}: {problem}", "make it again, for this model")
        self.info = replace(self.info, adapters=self.info.adapters.plus(number))
        return number

    def drop_adapter(self, number: int) -> None:
        """Free an adapter on every rank; see `Adapters.drop_adapter`."""
        self._job.ask(msg.DropAdapter(number), msg.RequestDone, FILES_S)
        self.info = replace(self.info, adapters=self.info.adapters.minus(number))

    def set_threads(self, threads: Sequence[int]) -> None:
        """Set the threads that decode; see `Instruments.set_threads`."""
        self._job.ask(msg.SetThreads(list(threads)), msg.RequestDone, 4 * self._wait_s)
        self.info = replace(self.info, threads=tuple(threads))

    def watch_threads(self, changed: Callable[[Sequence[int]], None]) -> None:
        """Tell when threads are given up; see `Instruments.watch_threads`."""
        self._watch.changed = changed

    def trace(self, *, experts: bool = False) -> None:
        """Record the times of every step; see `Instruments.trace`."""
        self._job.ask(msg.SetTrace(on=True, experts=experts), msg.Traced, 4 * self._wait_s)

    def traced(self) -> list[RankTrace]:
        """Return what every rank recorded; see `Instruments.traced`."""
        done = self._job.ask(msg.SetTrace(on=False), msg.Traced, 4 * self._wait_s)
        return [
            RankTrace(
                clock,
                tuple(
                    StepTrace(begun, ended, np.frombuffer(sums, np.float64).reshape(-1, 4), experts)
                    for begun, ended, sums, experts in steps
                ),
            )
            for clock, steps in done.ranks
        ]

    def probe(self, n_bytes: int) -> tuple[list[float], float]:
        """Measure how fast ranks read and exchange; see `Instruments.probe`."""
        done = self._job.ask(msg.ProbeRanks(n_bytes), msg.Probed, FILES_S)
        return done.read_bytes_per_s, done.exchange_s

    def facts(self) -> list[RankFacts]:
        """Return what every rank holds now."""
        done = self._job.ask(msg.GetFacts(), msg.FactsReported, 4 * self._wait_s)
        return [
            RankFacts(host, weights, kv, peak)
            for (host, weights, peak), kv in zip(done.ranks, self._kv_bytes, strict=True)
        ]

    def gather_inputs(self, *, on: bool) -> InputSums:
        """Gather what weights are multiplied with; see `InputGathering.gather_inputs`.

        The ranks hold a cut input in their order, one part after the other.
        """
        request = msg.GatherInputs(on, self._cut_inputs)
        done = self._job.ask(request, msg.InputsGathered, FILES_S)
        return {
            name: _joined([rank[name] for rank in done.ranks if name in rank])
            for name in done.ranks[0]
        }

    def close(self) -> None:
        """End all ranks."""
        self._job.close()


def _joined(parts: Sequence[tuple[bytes, bytes]]) -> tuple[Floats, Floats]:
    """Put the sums of one weight's input together; the counts are the same on every rank."""
    counts = np.frombuffer(parts[0][1], np.float32)
    sums = [np.frombuffer(part, np.float32).reshape(len(counts), -1) for part, _ in parts]
    return np.concatenate(sums, axis=1), counts


def _wait_s() -> float:
    text = os.environ.get("DURE_STEP_TIMEOUT", "")
    try:
        seconds = float(text or WAIT_S)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"DURE_STEP_TIMEOUT is {text!r}", "give seconds above 0, as in 30")
    return seconds


def _job(
    model: Path,
    shards: Sequence[Path],
    plan: CutPlan,
    limits: Limits,
    threads: Sequence[int],
    gpus: Sequence[OffloadedLayers],
    options: MpiOptions,
    wait_s: float,
) -> Job:
    return Job(
        socket="",
        model=str(model.absolute()),
        shards=[str(path.absolute()) for path in shards],
        vocabulary=[
            (rows.start, rows.stop) for rows in (cut[Along.VOCABULARY] for cut in plan.ranks)
        ],
        embedding_scale=plan.architecture.embedding_scale(plan.shape.n_embd),
        reduction_points=plan.architecture.reduction_points,
        reductions_per_pass=2 * plan.shape.n_layer,
        wire=options.wire,
        limits=limits,
        threads=list(threads),
        max_values=limits.n_batch * plan.shape.n_embd,
        two_phase_above=options.two_phase_above,
        wait_s=wait_s,
        staged=options.staged,
        gpus=list(gpus),
    )
