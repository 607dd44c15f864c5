"""Rank 0's own work: it answers the client, and leads the other ranks.

It turns tokens into embeddings, hands every step to the others, and merges their best logits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dure.engine.compute.embedding_table import EmbeddingTable
from dure.engine.compute.native import mpi
from dure.engine.compute.top_k import SliceBest, merge
from dure.engine.ranks import messages as msg
from dure.engine.ranks.channel import Line
from dure.engine.ranks.parent import LOOK_FOR_STARTER_S, end_if_alone
from dure.engine.ranks.rank_process import FilesRequest, RankProcess
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

__all__ = ["Leader"]


class Leader:
    """Rank 0: answers the client, and leads the others."""

    def __init__(self, process: RankProcess, line: Line) -> None:
        self._process, self._line = process, line
        self._comm, self._job = process.comm, process.job
        self._others = range(1, self._comm.size)
        self._table = EmbeddingTable(open_gguf(Path(self._job.model)), self._job.embedding_scale)

    def lead(self) -> None:
        """Answer requests until the client says stop."""
        self._line.send(msg.encode(msg.Ready(self._job.n_ctx)))
        while True:
            request = msg.decode(self._receive(), msg.ToRank0)
            if isinstance(request, msg.Stop):
                self._wait(self._tell(msg.pack(request)))
                return
            self._line.send(msg.encode(self._answer(request)))

    def _receive(self) -> bytes:
        """The client's next request. Sleeps until it comes; ends if mpiexec or the client is gone."""
        while not self._line.wait(LOOK_FOR_STARTER_S):
            end_if_alone()
        return self._line.receive()

    def _answer(self, request: msg.ToRank0) -> msg.FromRank0:
        match request:
            case msg.Step():
                return self._step(request)
            case msg.GetLogits():
                return self._logits(request)
            case msg.Save() | msg.Load() | msg.Keep() | msg.Drop():
                return self._change_files(request)
            case msg.SetThreads():
                sends = self._tell(msg.pack(request))
                self._process.set_threads(request)
                self._wait(sends)
                return msg.Done()
            case msg.Trace():
                return self._trace(request)
            case msg.Probe():
                return self._probe(request)
            case _:
                return self._facts()

    def _step(self, step: msg.Step) -> msg.StepDone:
        embeddings = self._table.rows(np.frombuffer(step.tokens, np.int32))
        sends = self._tell(msg.pack_step(step, embeddings))
        sizes = [self._n_best(p, step.n_best) for p in self._others]
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
            self._row([best, *(theirs[row] for _, theirs in others)], step.n_best)
            for row, best in enumerate(own)
        ]
        stats = [self._process.stats, *(stats for stats, _ in others)]
        sizes = [0, *map(len, buffers)]
        return msg.StepDone(
            rows,
            [(a, b, c, d + n) for (a, b, c, d), n in zip(stats, sizes, strict=True)],
            self._process.embeddings().tobytes() if step.embed else b"",
        )

    def _change_files(self, request: FilesRequest) -> msg.FromRank0:
        ranks = self._gather(request, self._process.change_files)
        match request:
            case msg.Save():
                return msg.Saved(ranks)
            case msg.Load():
                return msg.Loaded(ranks)
            case msg.Keep():
                return msg.Kept(ranks)
            case msg.Drop():
                return msg.Done()

    def _trace(self, request: msg.Trace) -> msg.Traced:
        sends = self._tell(msg.pack(request))
        ranks = [(0.0, self._process.trace(request))]
        for p in self._others:
            noted = self._comm.recv(source=p, tag=TAG_REPORT)
            ranks.append((self._clock_of(p), noted))
        self._wait(sends)
        return msg.Traced(ranks)

    def _clock_of(self, rank: int) -> float:
        """A rank's clock less this one's, from the quickest of many answers."""
        answers = []
        for _ in range(CLOCK_ASKS):
            asked = time.monotonic()
            self._comm.send(None, rank, TAG_CLOCK)
            told = self._comm.recv(source=rank, tag=TAG_CLOCK)
            took = time.monotonic() - asked
            answers.append((took, told - asked - took / 2))
        return float(min(answers)[1])

    def _probe(self, request: msg.Probe) -> msg.Probed:
        ranks = self._gather(request, self._process.probe)
        return msg.Probed([read for read, _ in ranks], max(took for _, took in ranks))

    def _n_best(self, rank: int, k: int) -> int:
        start, stop = self._job.vocabulary[rank]
        return min(k, stop - start)

    def _row(self, slices: list[SliceBest], k: int) -> msg.Row:
        best = merge(slices, k, self._table.n_vocab)
        return msg.Row(best.ids.tobytes(), best.logits.tobytes(), best.log_sum_exp)

    def _logits(self, request: msg.GetLogits) -> msg.Logits:
        sends = self._tell(msg.pack(request))
        slices = [np.empty(stop - start, np.float32) for start, stop in self._job.vocabulary]
        slices[0] = self._process.logits(request.row)
        reports = [self._comm.Irecv(slices[p], p, TAG_REPORT) for p in self._others]
        self._wait(reports + sends)
        return msg.Logits(np.concatenate(slices).tobytes())

    def _facts(self) -> msg.Facts:
        return msg.Facts(self._gather(msg.GetFacts(), lambda _: self._process.facts()))

    def _gather(self, request: Any, answer: Callable[[Any], Any]) -> list[Any]:
        """Every rank's answer to a request, this one's first."""
        sends = self._tell(msg.pack(request))
        answers = [answer(request)]
        answers += [self._comm.recv(source=p, tag=TAG_REPORT) for p in self._others]
        self._wait(sends)
        return answers

    def _tell(self, data: bytes) -> list[Any]:
        return [self._comm.Isend(data, p, TAG_STEP) for p in self._others]

    def _wait(self, requests: list[Any]) -> None:
        """Wait for requests, but no longer than a rank may take."""
        give_up = time.perf_counter() + self._job.wait_s
        request = mpi().Request
        while not request.Testall(requests):
            os.sched_yield()
            if time.perf_counter() > give_up:
                late = [i + 1 for i, r in enumerate(requests[: len(self._others)]) if r]
                raise EngineError(
                    f"rank {late[0] if late else '?'} did not report within {self._job.wait_s:g} s: "
                    "is its machine on, and its cable in?"
                )
