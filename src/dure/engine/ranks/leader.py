"""Rank 0's own work: it answers the client, and leads the other ranks.

It turns tokens into embeddings, hands every step to the others, and merges their top k.
Knows all ranks. Refuses to know how a step is computed, see `rank_process`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dure.engine.arrays import Floats
from dure.engine.compute.embedding_table import EmbeddingTable
from dure.engine.compute.native import mpi
from dure.engine.compute.top_k import SliceTopK, merge_top_k
from dure.engine.ranks import messages as msg
from dure.engine.ranks.channel import Channel
from dure.engine.ranks.parent import CHECK_PARENT_S, end_if_orphaned
from dure.engine.ranks.rank_process import RankProcess
from dure.engine.ranks.reports import (
    CLOCK_ASKS,
    TAG_CLOCK,
    TAG_REPORT,
    TAG_STEP,
    read_report,
    report_size,
)
from dure.errors import EngineError
from dure.model.gguf import open_gguf

if TYPE_CHECKING:
    from mpi4py.MPI import Request

__all__ = ["Leader"]

Asked = TypeVar("Asked", bound=msg.ToRank)
Answered = TypeVar("Answered")


class Leader:
    """Rank 0: answers the client, and leads the others."""

    def __init__(self, process: RankProcess, client: Channel) -> None:
        self._process, self._client = process, client
        self._comm, self._job = process.comm, process.job
        self._others = range(1, self._comm.size)
        with open_gguf(Path(self._job.model)) as model:
            self._table = EmbeddingTable(model, self._job.embedding_scale)

    def lead(self) -> None:
        """Answer requests until the client says stop."""
        self._client.send(msg.encode(msg.RanksReady(self._job.limits.n_ctx)))
        while True:
            request = msg.decode_request(self._receive())
            if isinstance(request, msg.StopRanks):
                self._wait(self._send(msg.pack(request)))
                return
            self._client.send(msg.encode(self._answer(request)))

    def _receive(self) -> bytes:
        """Sleep until the client's next request comes; end if mpiexec or the client is gone."""
        while not self._client.wait(CHECK_PARENT_S):
            end_if_orphaned()
        return self._client.receive()

    def _answer(self, request: msg.ToRank0) -> msg.FromRank0:
        match request:
            case msg.StepRequest():
                return self._step(request)
            case msg.GetLogits():
                return self._logits(request)
            case msg.SetThreads():
                return self._set_threads(request)
            case msg.SetTrace():
                return self._set_trace(request)
            case msg.ProbeRanks():
                return self._probe(request)
            case msg.GetFacts():
                return msg.FactsReported(self._gather(request, lambda _: self._process.facts()))
            case msg.GatherInputs():
                return msg.InputsGathered(self._gather(request, self._process.gather_inputs))
            case _:
                return self._change_files(request)

    # ------------------------------------------------------------ steps

    def _step(self, step: msg.StepRequest) -> msg.StepDone:
        embeddings = self._table.rows(np.frombuffer(step.tokens, np.int32))
        sends = self._send(msg.pack_step(step, embeddings))
        sizes = [self._n_reported(p, step.top_k) for p in self._others]
        n_rows = 0 if step.embed else len(step.outputs)
        buffers = [bytearray(report_size(n_rows, k)) for k in sizes]
        reports = [
            self._comm.Irecv(buffer, p, TAG_REPORT)
            for p, buffer in zip(self._others, buffers, strict=True)
        ]
        own = self._process.step(msg.rank_step(step), embeddings)
        self._wait(reports + sends)
        others = [
            read_report(bytes(buffer), n_rows, k) for buffer, k in zip(buffers, sizes, strict=True)
        ]
        rows = [
            self._row([top, *(theirs[row] for _, theirs in others)], step.top_k)
            for row, top in enumerate(own)
        ]
        stats = [self._process.stats, *(stats for stats, _ in others)]
        n_sent = [0, *map(len, buffers)]
        return msg.StepDone(
            rows,
            [(*s[:3], s[3] + n, *s[4:]) for s, n in zip(stats, n_sent, strict=True)],
            self._process.embeddings().tobytes() if step.embed else b"",
        )

    def _n_reported(self, rank: int, k: int) -> int:
        start, stop = self._job.vocabulary[rank]
        return min(k, stop - start)

    def _row(self, slices: list[SliceTopK], k: int) -> msg.TopKRow:
        top = merge_top_k(slices, k, self._table.n_vocab)
        return msg.TopKRow(top.ids.tobytes(), top.logits.tobytes(), top.log_sum_exp)

    def _logits(self, request: msg.GetLogits) -> msg.Logits:
        sends = self._send(msg.pack(request))
        slices: list[Floats] = [
            np.empty(stop - start, np.float32) for start, stop in self._job.vocabulary
        ]
        slices[0] = self._process.logits(request.row)
        reports = [self._comm.Irecv(slices[p], p, TAG_REPORT) for p in self._others]
        self._wait(reports + sends)
        return msg.Logits(np.concatenate(slices).tobytes())

    # ------------------------------------------------------------ saved sequences

    def _change_files(
        self,
        request: msg.SaveSequence
        | msg.LoadSequence
        | msg.KeepSequences
        | msg.DropSequence
        | msg.LoadAdapter
        | msg.DropAdapter
        | msg.StopRanks,
    ) -> msg.FromRank0:
        match request:
            case msg.SaveSequence():
                return msg.SequenceSaved(self._gather(request, self._process.save))
            case msg.LoadSequence():
                return msg.SequenceLoaded(self._gather(request, self._process.load))
            case msg.KeepSequences():
                return msg.SequencesKept(self._gather(request, self._process.keep_only))
            case msg.LoadAdapter():
                return msg.AdapterLoaded(self._gather(request, self._process.load_adapter))
            case msg.DropSequence() | msg.DropAdapter():
                self._gather(request, self._process.drop)
                return msg.RequestDone()
            case msg.StopRanks():
                raise AssertionError("`lead` ends at this one")

    # ------------------------------------------------------------ instruments

    def _set_threads(self, request: msg.SetThreads) -> msg.RequestDone:
        sends = self._send(msg.pack(request))
        self._process.set_threads(request)
        self._wait(sends)
        return msg.RequestDone()

    def _set_trace(self, request: msg.SetTrace) -> msg.Traced:
        sends = self._send(msg.pack(request))
        ranks = [(0.0, self._process.set_trace(request))]
        for p in self._others:
            recorded = self._comm.recv(source=p, tag=TAG_REPORT)
            ranks.append((self._clock_of(p), recorded))
        self._wait(sends)
        return msg.Traced(ranks)

    def _clock_of(self, rank: int) -> float:
        """Return a rank's clock less this one's, from the quickest of many answers."""
        answers = []
        for _ in range(CLOCK_ASKS):
            asked = time.monotonic()
            self._comm.send(None, rank, TAG_CLOCK)
            theirs = self._comm.recv(source=rank, tag=TAG_CLOCK)
            took = time.monotonic() - asked
            answers.append((took, theirs - asked - took / 2))
        return float(min(answers)[1])

    def _probe(self, request: msg.ProbeRanks) -> msg.Probed:
        ranks = self._gather(request, self._process.probe)
        return msg.Probed([read for read, _ in ranks], max(took for _, took in ranks))

    # ------------------------------------------------------------ the other ranks

    def _gather(self, request: Asked, answer: Callable[[Asked], Answered]) -> list[Answered]:
        """Return every rank's answer to a request, this one's first."""
        sends = self._send(msg.pack(request))
        answers = [answer(request)]
        answers += [self._comm.recv(source=p, tag=TAG_REPORT) for p in self._others]
        self._wait(sends)
        return answers

    def _send(self, data: bytes) -> list[Request]:
        return [self._comm.Isend(data, p, TAG_STEP) for p in self._others]

    def _wait(self, requests: list[Request]) -> None:
        """Wait for requests, but no longer than a rank may take."""
        give_up = time.perf_counter() + self._job.wait_s
        request = mpi().Request
        while not request.Testall(requests):
            os.sched_yield()
            if time.perf_counter() > give_up:
                late = [i + 1 for i, r in enumerate(requests[: len(self._others)]) if r]
                raise EngineError(
                    f"rank {late[0] if late else '?'} did not report within {self._job.wait_s:g} s",
                    "is its machine on, and its cable in?",
                )
