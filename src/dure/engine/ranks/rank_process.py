"""A rank's shard, its all-reduce, and one step on it: what rank 0 and the others share.

Knows one process. Refuses to know how requests come and answers go, see `leader` and `follower`.
"""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dure.engine.arrays import Floats
from dure.engine.compute.allreduce import (
    AllReduce,
    AllReduceStats,
    exchange_seconds,
    read_bytes_per_s,
)
from dure.engine.compute.expert_choices import ExpertChoices
from dure.engine.compute.llama import LoadedModel
from dure.engine.compute.memory import peak_bytes
from dure.engine.compute.native import mpi
from dure.engine.compute.sharing import StepTimes
from dure.engine.compute.top_k import SliceTopK, adjust, slice_top_k
from dure.engine.kv import Clear
from dure.engine.limits import Limits, OffloadedLayers
from dure.engine.ranks import messages as msg
from dure.engine.ranks.channel import Channel
from dure.engine.ranks.job import Job
from dure.engine.saved.sequence_files import RankFiles
from dure.engine.trace import MOST_PASSES
from dure.errors import EngineError, ModelError, ResourceError

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

__all__ = ["RankProcess"]

WARM_UP, EXCHANGES = 50, 300
WARM_UP_TOKENS = (1, 8, 128)  # of the steps for which a GPU's driver compiles different kernels


class RankProcess:
    """One rank of a running job. client: whom rank 0 tells its progress; None on the others.

    stats: of the last step. Raises EngineError if a step or an all-reduce fails.
    """

    stats: msg.RankStats

    def __init__(self, job: Job, client: Channel | None) -> None:
        self.job = job
        self.comm: Intracomm = mpi().COMM_WORLD
        self.rank = self.comm.rank
        self._all_reduce = AllReduce(
            job.reduction_points,
            job.wire,
            max_values=job.max_values,
            wait_s=job.wait_s,
            two_phase_above=job.two_phase_above,
            staged=job.staged,
        )
        self._files = RankFiles(self.rank, job.saved_directory)
        self.model = self._load(client)
        self.first_id = job.vocabulary[self.rank][0]
        self._outputs: list[int] = []
        self._choices = ExpertChoices()
        self._steps: list[msg.TracedStep] | None = None  # recorded while traced
        self._idle_since = time.monotonic()

    def _load(self, client: Channel | None) -> LoadedModel:
        shard = Path(self.job.shards[self.rank])
        model = LoadedModel(
            shard,
            self._limits(),
            progress=_Progress(client) if client else lambda _: None,
            cure=f"delete {shard}, and it is cut again",
        )
        start, stop = self.job.vocabulary[self.rank]
        if model.n_vocab != stop - start:
            raise EngineError(
                f"shard {shard.name} has {model.n_vocab} vocabulary rows instead of {stop - start}",
                "delete it and cut again",
            )
        if model.limits.gpu.layers:
            self._warm_up(model)
        return model

    def _warm_up(self, model: LoadedModel) -> None:
        """Compute alone, in vain: a GPU's driver compiles then, for longer than ranks wait in a step."""
        most = min(model.limits.n_batch, model.limits.n_ctx)
        with self._all_reduce.paused():
            for n in (min(n, most) for n in WARM_UP_TOKENS):
                embeddings = np.zeros((n, model.n_embd), np.float32)
                positions = np.arange(n, dtype=np.int32)
                model.decode(embeddings, positions, np.zeros(n, np.int32), [n - 1])
                model.kv.change([Clear()])

    def _limits(self) -> Limits:
        threads, pin = self.job.threads[self.rank], self.job.limits.pin
        first_core = self._ranks_before_here() * threads if pin else 0
        gpu = self.job.gpus[self.rank] if self.job.gpus else OffloadedLayers()
        return replace(
            self.job.limits, threads=threads, first_core=first_core, gpu=gpu, given_embeddings=True
        )

    def _ranks_before_here(self) -> int:
        """Count the ranks of a smaller number that this machine has."""
        here = self.comm.Split_type(mpi().COMM_TYPE_SHARED)
        before: int = here.rank
        here.Free()
        return before

    def step(self, step: msg.RankStep, embeddings: Floats) -> list[SliceTopK]:
        """Decode the step on this rank's shard; return its slice's top k for every output row."""
        spent = StepTimes()
        start = spent.begun
        idle_s = start - self._idle_since
        self.model.kv.change(step.kv)
        self._outputs = step.outputs
        self.model.want_embeddings(step.embed)
        self._all_reduce.begin()
        n_tokens = self._decode(step, embeddings)
        reduced = self._all_reduce.end()
        if n_tokens:
            self._check_reductions(reduced)
        rows = [] if step.embed else self._top_k(step)
        self._idle_since = time.monotonic()
        if self._steps is not None and n_tokens:
            times = self._all_reduce.times.recorded().tobytes()
            self._steps.append((start, self._idle_since, times, self._choices.noted()))
        step_s = self._idle_since - start
        use = self.model.share_processors(spent, n_tokens, reduced.sync_s)
        self.stats = (step_s, reduced.sync_s, idle_s, reduced.bytes_sent, *use)
        return rows

    def _decode(self, step: msg.RankStep, embeddings: Floats) -> int:
        """Decode what the step has of tokens, if any; return how many."""
        positions = np.frombuffer(step.positions, np.int32)
        if positions.size:
            self.model.adapters.use(step.adapters)
            self.model.decode(
                embeddings.reshape(positions.size, self.model.n_embd),
                positions,
                np.frombuffer(step.sequences, np.int32),
                step.outputs,
            )
        return positions.size

    def _check_reductions(self, reduced: AllReduceStats) -> None:
        n = reduced.n_reductions
        if not n or n % self.job.reductions_per_pass:
            raise EngineError(
                f"{n} sums in a step instead of a multiple of {self.job.reductions_per_pass}",
                "llama.cpp's graph is not the one that dure's table describes; please report it",
            )

    def _top_k(self, step: msg.RankStep) -> list[SliceTopK]:
        changes = msg.adjustments(step.adjust) or [None] * len(step.outputs)
        rows = [self.model.logits(i) for i in step.outputs]
        for row, change in zip(rows, changes, strict=True):
            adjust(row, change, self.first_id)
        return [slice_top_k(row, step.top_k, self.first_id) for row in rows]

    def embeddings(self) -> Floats:
        """Return hidden states of the last step's outputs; every rank has the same."""
        return self.model.embeddings(self._outputs)

    def save(self, request: msg.SaveSequence) -> int | None:
        """Write this rank's part of a sequence; return its bytes, None if it cannot be written."""
        try:
            return self.model.kv.save(request.sequence, self._files.file(request.path))
        except ResourceError:
            return None

    def load(self, request: msg.LoadSequence) -> bool:
        """Read this rank's part of a sequence back; False if it is not whole."""
        return self.model.kv.load(
            request.sequence, self._files.file(request.path), request.n_tokens
        )

    def keep_only(self, request: msg.KeepSequences) -> tuple[list[str], int]:
        """Delete all saved sequences but these; return which are here, and bytes of room."""
        return self._files.keep_only(request.directory, request.keys)

    def drop(self, request: msg.DropSequence | msg.DropAdapter) -> None:
        """Delete this rank's part of a saved sequence, or free that of an adapter."""
        match request:
            case msg.DropSequence(path):
                self._files.drop(path)
            case msg.DropAdapter(number):
                self.model.adapters.drop(number)

    def load_adapter(self, request: msg.LoadAdapter) -> str:
        """Load this rank's part of an adapter; return why it cannot be loaded, "" if it is."""
        name = Path(request.files[self.rank]).name
        try:
            self.model.adapters.load(
                request.number, Path(self.job.shards[self.rank]).with_name(name)
            )
        except ModelError as error:
            return error.problem
        return ""

    def set_threads(self, request: msg.SetThreads) -> None:
        """Decode with this rank's number of threads from now on."""
        self.model.set_threads(request.threads[self.rank])

    def set_trace(self, request: msg.SetTrace) -> list[msg.TracedStep]:
        """Record the times of steps from now on, or stop; return those recorded before."""
        recorded = self._steps or []
        self._steps = [] if request.on else None
        n = self.job.reductions_per_pass * MOST_PASSES if request.on else 0
        self._all_reduce.times.record(n)
        self._choices.note(self.model.n_layer if request.on and request.experts else 0)
        return recorded

    def probe(self, request: msg.ProbeRanks) -> tuple[float, float]:
        """Measure bytes read in a second, and seconds of an exchange. All ranks at once."""
        read = read_bytes_per_s(self.job.threads[self.rank])
        exchange_seconds(request.n_bytes, WARM_UP)
        return read, exchange_seconds(request.n_bytes, EXCHANGES)

    def logits(self, row: int) -> Floats:
        """Return this rank's slice of the logits of an output row."""
        return np.array(self.model.logits(self._outputs[row]))

    def facts(self) -> tuple[str, int, int]:
        """Return host, bytes of weights, peak bytes of memory."""
        return socket.gethostname(), self.model.weights_bytes, peak_bytes()

    def gather_inputs(self, request: msg.GatherInputs) -> dict[str, tuple[bytes, bytes]]:
        """Gather what weights are multiplied with, or stop; return what only this rank can report."""
        cut = tuple(request.cut)
        return {
            name: (sums.tobytes(), counts.tobytes())
            for name, (sums, counts) in self.model.inputs.gather(on=request.on).items()
            if self.rank == 0 or name.endswith(cut)
        }

    def close(self) -> None:
        """Prepare for the end of MPI."""
        self._all_reduce.close()


class _Progress:
    """Tells the client how much of rank 0's shard is loaded; a client that is gone ends the job."""

    def __init__(self, client: Channel) -> None:
        self._client, self._next = client, 0.0

    def __call__(self, fraction: float) -> None:
        if fraction >= self._next:
            self._next = fraction + 0.01
            self._client.send(msg.encode(msg.ShardLoading(fraction)))
