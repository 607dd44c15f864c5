"""A rank's shard, its sums, and one step on it: what rank 0 and the others share."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import numpy as np

from dure.engine.compute.allreduce import Sums, Wire, exchange_seconds, read_bytes_per_s
from dure.engine.compute.llama import Limits, LoadedModel
from dure.engine.compute.memory import peak_bytes
from dure.engine.compute.native import mpi
from dure.engine.compute.top_k import SliceBest, adjust, best_of_slice
from dure.engine.executor import Floats
from dure.engine.instruments.trace import MOST_PASSES
from dure.engine.ranks import messages as msg
from dure.engine.ranks.channel import Line
from dure.engine.saved.sequence_files import KeptFiles
from dure.errors import EngineError, ResourceError

__all__ = ["FilesAnswer", "FilesRequest", "RankProcess"]

WARM_UP, EXCHANGES = 50, 300
FilesRequest = msg.Save | msg.Load | msg.Keep | msg.Drop
FilesAnswer = int | bool | tuple[list[str], int] | None
"""A rank's answer: bytes saved, None if they cannot be written; whether a part was loaded; which keys it
keeps, and bytes of room; None if it dropped a part."""


class RankProcess:
    """One rank of a running job. line: where rank 0 tells its progress; None on the others."""

    def __init__(self, job: msg.Job, line: Line | None) -> None:
        self.job = job
        self.comm = mpi().COMM_WORLD
        self.rank: int = self.comm.rank
        self._sums = Sums(
            job.points,
            Wire(job.wire),
            max_values=job.max_values,
            wait_s=job.wait_s,
            two_phase_above=job.two_phase_above,
            staged=job.staged,
        )
        self._kept = KeptFiles(self.rank, job.kept)
        self.model = LoadedModel(
            Path(job.shards[self.rank]),
            Limits(
                *(job.n_ctx, job.threads[self.rank], job.n_batch, job.n_sequences, job.n_outputs),
                lock=job.lock,
                pin=job.pin,
                first_core=self._ranks_before_here() * job.threads[self.rank] if job.pin else 0,
            ),
            progress=_Progress(line) if line else lambda _: None,
            cure=f"delete {job.shards[self.rank]}, and it is cut again",
        )
        self.first_id, stop = job.vocabulary[self.rank]
        if self.model.n_vocab != stop - self.first_id:
            raise EngineError(
                f"shard {Path(job.shards[self.rank]).name} has {self.model.n_vocab} vocabulary rows "
                f"instead of {stop - self.first_id}: delete it and cut again"
            )
        self._outputs: list[int] = []
        self._steps: list[tuple[float, float, bytes]] | None = None  # noted while traced
        self._idle_since = time.monotonic()

    def _ranks_before_here(self) -> int:
        """How many ranks of a smaller number this machine has."""
        here = self.comm.Split_type(mpi().COMM_TYPE_SHARED)
        before: int = here.rank
        here.Free()
        return before

    def step(self, step: msg.RankStep, embeddings: Floats) -> list[SliceBest]:
        """Decode the step on this rank's shard; the best of its slice for every output row."""
        start = time.monotonic()
        idle_s = start - self._idle_since
        self.model.change_kv(step.kv)
        positions = np.frombuffer(step.positions, np.int32)
        self._outputs = step.outputs
        self.model.want_embeddings(step.embed)
        self._sums.begin()
        if positions.size:
            self.model.decode(
                embeddings.reshape(positions.size, self.model.n_embd),
                positions,
                np.frombuffer(step.sequences, np.int32),
                step.outputs,
            )
        sums = self._sums.end()
        if positions.size and (not sums.n_sums or sums.n_sums % self.job.sums_per_pass):
            raise EngineError(
                f"{sums.n_sums} sums in a step instead of a multiple of {self.job.sums_per_pass}: "
                "llama.cpp's graph is not the one that dure's table describes; please report it"
            )
        best = [] if step.embed else self._best(step)
        self._idle_since = time.monotonic()
        if self._steps is not None and positions.size:
            self._steps.append((start, self._idle_since, self._sums.noted.told().tobytes()))
        self.stats = (self._idle_since - start, sums.sync_s, idle_s, sums.bytes_sent)
        return best

    def _best(self, step: msg.RankStep) -> list[SliceBest]:
        changes = msg.adjustments(step.adjust) or [None] * len(step.outputs)
        rows = [self.model.logits(i) for i in step.outputs]
        for row, change in zip(rows, changes, strict=True):
            adjust(row, change, self.first_id)
        return [best_of_slice(row, step.n_best, self.first_id) for row in rows]

    def embeddings(self) -> Floats:
        """Hidden states of the last step's outputs; every rank has the same."""
        return self.model.embeddings(self._outputs)

    def change_files(self, request: FilesRequest) -> FilesAnswer:
        """Save, load, keep or drop this rank's part of saved sequences; see `FilesAnswer`."""
        match request:
            case msg.Save():
                return self._save(request)
            case msg.Load(sequence, path, n_tokens):
                return self.model.load(sequence, self._kept.file(path), n_tokens)
            case msg.Keep(directory, keys):
                return self._kept.keep_only(directory, keys)
            case msg.Drop(path):
                self._kept.drop(path)
                return None

    def _save(self, request: msg.Save) -> int | None:
        try:
            return self.model.save(request.sequence, self._kept.file(request.path))
        except ResourceError:
            return None

    def set_threads(self, request: msg.SetThreads) -> None:
        """Decode with this rank's number of threads from now on."""
        self.model.set_threads(request.threads[self.rank])

    def trace(self, request: msg.Trace) -> list[tuple[float, float, bytes]]:
        """Note the times of steps from now on, or tell those that were noted and stop."""
        noted = self._steps or []
        self._steps = [] if request.on else None
        self._sums.noted.keep(self.job.sums_per_pass * MOST_PASSES if request.on else 0)
        return noted

    def probe(self, request: msg.Probe) -> tuple[float, float]:
        """Bytes of memory that this rank reads in a second; seconds of an exchange. All ranks at once."""
        read = read_bytes_per_s(self.job.threads[self.rank])
        exchange_seconds(request.n_bytes, WARM_UP)
        return read, exchange_seconds(request.n_bytes, EXCHANGES)

    def logits(self, row: int) -> Floats:
        """This rank's slice of the logits of an output row."""
        return np.array(self.model.logits(self._outputs[row]))

    def close(self) -> None:
        """Be ready for MPI's end."""
        self._sums.close()

    def facts(self) -> tuple[str, int, int]:
        """Host, bytes of weights, peak bytes of memory."""
        return socket.gethostname(), self.model.weights_bytes, peak_bytes()


class _Progress:
    """Tells the client how much of rank 0's shard is loaded; a client that is gone ends the job."""

    def __init__(self, line: Line) -> None:
        self._line, self._next = line, 0.0

    def __call__(self, fraction: float) -> None:
        if fraction >= self._next:
            self._next = fraction + 0.01
            self._line.send(msg.encode(msg.Loading(fraction)))
