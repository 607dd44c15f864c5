"""One rank: a process that holds one shard and takes part in every step.

Started by `mpiexec` as `python -m dure.engine.rank JOB`. Rank 0 also talks to the client: it turns
tokens into embeddings, hands every step to the others, and merges their best logits.
Crash-only: what goes wrong is written beside the job file, and the whole job ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import struct
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import psutil

from dure.engine import messages as msg
from dure.engine.best import SliceBest, adjust, best_of_slice, merge
from dure.engine.embedding import EmbeddingTable
from dure.engine.executor import Floats
from dure.engine.kept import KeptFiles
from dure.engine.line import Line
from dure.engine.llama import Limits, LoadedModel
from dure.engine.memory import peak_bytes
from dure.engine.native import mpi
from dure.engine.sums import Sums, Wire, exchange_seconds, read_bytes_per_s
from dure.engine.trace import MOST_PASSES
from dure.errors import DureError, EngineError, ResourceError
from dure.model.gguf import open_gguf

TAG_STEP, TAG_REPORT, TAG_CLOCK = 1, 2, 3
CLOCK_ASKS = 64
WARM_UP, EXCHANGES = 50, 300
SPIN_S = 0.003  # after a step, the next one is probably near
NAP_SHARE = 0.05  # then naps between looks grow with the wait: a step is this much of it late
LONGEST_NAP_S = 0.02
LOOK_FOR_STARTER_S = 1.0
_MPICH_SHARED = "/dev/shm/mpich_shm"  # noqa: S108  # where Linux keeps it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
Kept = msg.Save | msg.Load | msg.Keep | msg.Drop
_STATS = struct.Struct("<4d")  # the head of a report
_SUM = struct.Struct("<d")  # the head of each of its rows


class RankProcess:
    """What rank 0 and the others share: a shard, its sums, and one step on it."""

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
        self.model.change_kv(msg.kv_ops(step.kv))
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

    def keep(self, request: Kept) -> Any:
        """Save, read back, look for or delete this rank's part of sequences; what the client is told.

        Bytes saved or positions read, -1 where that failed; or what is there, and the room for more.
        """
        match request:
            case msg.Save(sequence, path):
                try:
                    return self.model.save(sequence, self._kept.file(path))
                except ResourceError:
                    return -1
            case msg.Load(sequence, path, n_tokens):
                is_read = self.model.load(sequence, self._kept.file(path), n_tokens)
                return n_tokens if is_read else -1
            case msg.Keep(directory, keys):
                return self._kept.keep_only(directory, keys)
            case msg.Drop(path):
                self._kept.drop(path)
                return [], 0

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
        self._line, self._told = line, -1.0

    def __call__(self, fraction: float) -> None:
        if fraction - self._told >= 0.01:
            self._told = fraction
            self._line.send(msg.encode(msg.Loading(fraction)))


@cache
def _starters() -> tuple[int, ...]:
    """The processes that started this one, up to mpiexec's own proxy, as they were at first."""
    return _ancestors()


def _ancestors() -> tuple[int, ...]:
    pids: list[int] = []
    for process in psutil.Process().parents():
        pids.append(process.pid)
        if process.name().startswith("hydra"):
            break
    return tuple(pids)


def _end_with_guard() -> None:
    """Have the kernel end this process with its guard: while MPI starts, nothing here could look."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # it is gone already
        os._exit(1)


def end_if_alone() -> None:
    """End this process at once when mpiexec is gone: MPI would wait for it for ever."""
    started_by = _starters()
    if _ancestors()[: len(started_by)] != started_by:
        os._exit(1)


# ---------------------------------------------------------------- the other ranks


def follow(process: RankProcess) -> None:
    """Take part in every step that rank 0 sends, until it says stop."""
    comm = process.comm
    while True:
        record, embeddings = msg.unpack(_receive(comm))
        match record:
            case msg.RankStep():
                best = process.step(record, embeddings)
                comm.Send(_report(process.stats, best), 0, TAG_REPORT)
            case msg.GetLogits():
                comm.Send(process.logits(record.row), 0, TAG_REPORT)
            case msg.Save() | msg.Load() | msg.Keep() | msg.Drop():
                comm.send(process.keep(record), 0, TAG_REPORT)
            case msg.SetThreads():
                process.set_threads(record)
            case msg.Trace():
                comm.send(process.trace(record), 0, TAG_REPORT)
                _tell_clock(comm)
            case msg.Probe():
                comm.send(process.probe(record), 0, TAG_REPORT)
            case msg.GetFacts():
                comm.send(process.facts(), 0, TAG_REPORT)
            case msg.Stop():
                return


def _receive(comm: Any) -> bytearray:
    """The next message of rank 0. Spins for a moment, then looks ever more rarely: idling is cheap."""
    status = mpi().Status()
    start = time.perf_counter()
    look_at = start + LOOK_FOR_STARTER_S
    while (message := comm.Improbe(0, TAG_STEP, status)) is None:
        now = time.perf_counter()
        if now - start > SPIN_S:
            time.sleep(min((now - start) * NAP_SHARE, LONGEST_NAP_S))
        else:
            os.sched_yield()  # the client may wait for this core
        if now > look_at:
            look_at = now + LOOK_FOR_STARTER_S
            end_if_alone()
    data = bytearray(status.Get_count())
    message.Recv(data)
    return data


def _tell_clock(comm: Any) -> None:
    """Answer rank 0, which compares clocks."""
    for _ in range(CLOCK_ASKS):
        comm.recv(source=0, tag=TAG_CLOCK)
        comm.send(time.monotonic(), 0, TAG_CLOCK)


def _report(stats: tuple[float, ...], best: list[SliceBest]) -> bytes:
    """Stats, then for every row its log-sum-exp, ids and logits: sizes that rank 0 knows."""
    parts = [_STATS.pack(*stats)]
    for ids, logits, log_sum_exp in best:
        parts += [_SUM.pack(log_sum_exp), ids.tobytes(), logits.tobytes()]
    return b"".join(parts)


def _report_size(n_rows: int, k: int) -> int:
    return _STATS.size + n_rows * (_SUM.size + 8 * k)


def _read_report(data: bytes, n_rows: int, k: int) -> tuple[tuple[float, ...], list[SliceBest]]:
    best: list[SliceBest] = []
    for row in range(n_rows):
        at = _report_size(row, k)
        (log_sum_exp,) = _SUM.unpack_from(data, at)
        ids = np.frombuffer(data, np.int32, k, at + _SUM.size)
        logits = np.frombuffer(data, np.float32, k, at + _SUM.size + ids.nbytes)
        best.append((ids, logits, log_sum_exp))
    return _STATS.unpack_from(data), best


# ---------------------------------------------------------------- rank 0


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
                return self._keep(request)
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
        buffers = [bytearray(_report_size(n_rows, k)) for k in sizes]
        reports = [
            self._comm.Irecv(buffer, p, TAG_REPORT)
            for p, buffer in zip(self._others, buffers, strict=True)
        ]
        own = self._process.step(msg.rank_step(step), embeddings)
        self._wait(reports + sends)
        others = [
            _read_report(bytes(buffer), n_rows, k) for buffer, k in zip(buffers, sizes, strict=True)
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

    def _keep(self, request: Kept) -> msg.Saved | msg.Kept:
        sends = self._tell(msg.pack(request))
        ranks = [self._process.keep(request)]
        ranks += [self._comm.recv(source=p, tag=TAG_REPORT) for p in self._others]
        self._wait(sends)
        return (msg.Saved if isinstance(request, msg.Save | msg.Load) else msg.Kept)(ranks)

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
        sends = self._tell(msg.pack(request))
        ranks = [self._process.probe(request)]
        ranks += [self._comm.recv(source=p, tag=TAG_REPORT) for p in self._others]
        self._wait(sends)
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
        sends = self._tell(msg.pack(msg.GetFacts()))
        facts = [self._process.facts()]
        facts += [self._comm.recv(source=p, tag=TAG_REPORT) for p in self._others]
        self._wait(sends)
        return msg.Facts(facts)

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


# ---------------------------------------------------------------- start and end


def main() -> None:
    """Run this rank until the job ends. The job file is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's business
    _end_with_guard()
    _starters()
    job_file = Path(sys.argv[1])
    job = msgspec.json.decode(job_file.read_bytes(), type=msg.Job)
    mpi().Init_thread(mpi().THREAD_FUNNELED)
    rank = mpi().COMM_WORLD.rank
    try:
        _run(job, rank)
    except (EOFError, ConnectionError):  # the client is gone: nobody is left to tell, or to tidy up
        shutil.rmtree(job_file.parent, ignore_errors=True)
        _abort(job_file, rank, None)
    except DureError as error:
        _abort(job_file, rank, msg.RankError(type(error).__name__, str(error)))
    mpi().Finalize()


def _run(job: msg.Job, rank: int) -> None:
    if rank > 0:
        process = RankProcess(job, None)
        process.comm.Barrier()
        _unname_shared_memory()
        follow(process)
        process.close()
        return
    unix = socket.socket(socket.AF_UNIX)
    unix.connect(job.socket)
    line = Line(unix)
    process = RankProcess(job, line)
    process.comm.Barrier()
    _unname_shared_memory()
    Leader(process, line).lead()
    process.close()


def _unname_shared_memory() -> None:
    """Unlink what MPICH shares between ranks, now that all have it: a killed rank would leave it behind."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    for path in {line.split(maxsplit=5)[-1] for line in lines if _MPICH_SHARED in line}:
        Path(path).unlink(missing_ok=True)


def _abort(job_file: Path, rank: int, error: msg.RankError | None) -> NoReturn:
    if error is not None:
        part = job_file.with_name(f"rank{rank}.part")
        part.write_bytes(msgspec.json.encode(error))
        part.replace(job_file.with_name(f"rank{rank}.error"))
    mpi().COMM_WORLD.Abort(1)
    os._exit(1)


if __name__ == "__main__":
    main()
