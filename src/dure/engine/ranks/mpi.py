"""The executor of several local ranks: starts them with mpiexec, and asks rank 0.

Knows processes: how they are started, how their end shows, and that none is left behind.
Refuses to know tensors: rank 0 does the rest, see `rank`.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import psutil

from dure.engine.compute.allreduce import Wire
from dure.engine.compute.llama import Limits
from dure.engine.environment import with_huge_pages
from dure.engine.executor import (
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
from dure.engine.instruments.trace import RankTrace, StepTrace
from dure.engine.kv import Forget
from dure.engine.ranks import messages as msg
from dure.engine.ranks.channel import Line
from dure.errors import DureError, EngineError, ErrorRecord, ResourceError, UsageError, revived
from dure.model.architectures import Along
from dure.model.cut import CutPlan
from dure.places import temporary_directory

__all__ = ["GUARD", "RUNNING", "Launch", "MpiExecutor", "MpiOptions", "kill_all_of"]

WAIT_S = 30.0  # for another rank, within a step; DURE_STEP_TIMEOUT
KEEP_S = 300.0  # for writing or reading a long sequence on a slow disk
STOP_S = 5.0  # for ranks to end in peace
# mpiexec ends a job when a process is killed, but waits for ever when one merely exits before MPI has
# started. So each rank runs under a guard that notes its exit code and dies of a signal itself.
# What the rank says goes to a file: mpiexec may end before it has passed everything on.
GUARD = '"$@" 2>"$0.words" || { code=$?; echo $code >"$0"; kill -9 $$; }'
RUNNING = ".running"  # files of this ending are there while a launcher of ranks elsewhere runs
_KILLED = 128 + signal.SIGKILL
_REPORT = "start again, and please report it if it returns"


class MpiOptions(msgspec.Struct, frozen=True):
    """How ranks talk.

    wait_s: how long one rank waits for another before the job ends; None: DURE_STEP_TIMEOUT, or 30.
    two_phase_above: see `Sums`; None: as measured.
    staged: copy tensors out and in as if they lay in device memory.
    """

    wire: Wire = Wire.Q8
    wait_s: float | None = None
    two_phase_above: float | None = None
    staged: bool = False


class Launch(Protocol):
    """Where the ranks of a job are started: on this machine, or on others."""

    def prepare(self, job: msg.Job, directory: Path) -> None:
        """Write what starting needs into the job's directory."""

    def arguments(self, job_file: Path, n_ranks: int) -> list[str]:
        """mpiexec's arguments. Each rank dies of a signal, whatever it dies of (see GUARD)."""

    def environment(self) -> dict[str, str]:
        """What mpiexec's environment has besides this process's own."""


class MpiExecutor:
    """Runs a model that was cut over several ranks, on this machine or where `launch` starts them.

    `model`: the whole model, for embedding rows; `shards`: a rank's GGUF each, cut by `plan`.
    `limits.threads` is one rank's, `threads` every rank's where they differ; `kv_bytes`: a rank's KV
    cache each, as planned.
    Raises the error of the rank that could not load, ResourceError where mpiexec is missing.
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
        launch: Launch | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        options = options or MpiOptions()
        threads = tuple(threads) or (limits.threads,) * len(shards)
        self._wait_s = options.wait_s or _wait_s()
        self._kv_bytes = kv_bytes or [0] * len(shards)
        self.info = ExecutorInfo(
            n_ranks=len(shards),
            n_vocab=plan.shape.n_vocab,
            n_ctx=limits.n_ctx,
            n_batch=limits.n_batch,
            n_sequences=limits.n_sequences,
            n_outputs=limits.n_outputs,
            threads=threads,
        )
        job = _job(model, shards, plan, limits, threads, options, self._wait_s)
        self._process = _Job(job, launch or _HereLaunch(), progress)

    def step(self, batch: Batch, meanwhile: Callable[[], None] = nothing) -> StepResult:
        """Decode a batch; see `Executor.step`."""
        check_batch(batch, self.info)
        # Every sum may wait; but a step whose answer takes longer than all this has lost rank 0.
        patience_s = 4 * self._wait_s + 2.0 * len(batch.tokens)
        done = self._process.ask(msg.step_of(batch), msg.StepDone, patience_s, meanwhile)
        step_s, sync_s, idle_s, bytes_sent = zip(*done.stats, strict=True)
        return StepResult(
            tuple(self._candidates(row) for row in done.rows),
            StepStats(step_s, sync_s, idle_s, bytes_sent),
            self._embeddings(done.embeddings, len(batch.outputs)) if batch.embed else None,
        )

    def _embeddings(self, data: bytes, n: int) -> Floats:
        return np.frombuffer(data, np.float32).reshape(n, -1)

    def _candidates(self, row: msg.Row) -> Candidates:
        ids = np.frombuffer(row.ids, np.int32)
        whole = len(ids) == self.info.n_vocab
        return Candidates(ids, np.frombuffer(row.logits, np.float32), row.log_sum_exp, whole)

    def logits(self, row: int) -> Floats:
        """All logits of an output row of the last step: float32 [n_vocab]."""
        done = self._process.ask(msg.GetLogits(row), msg.Logits, 4 * self._wait_s)
        return np.frombuffer(done.values, np.float32)

    def save(self, sequence: int, path: str) -> int:
        """Write a sequence's KV cache; see `SequenceFiles.save`."""
        saved = self._process.ask(msg.Save(sequence, path), msg.Saved, KEEP_S)
        written = [n for n in saved.ranks if n is not None]
        if len(written) < len(saved.ranks):
            self.drop(path)
            raise ResourceError(f"the cache {path} cannot be written", "make room there")
        return sum(written)

    def load(self, sequence: int, path: str, n_tokens: int) -> bool:
        """Read back a sequence's KV cache; see `SequenceFiles.load`."""
        loaded = self._process.ask(msg.Load(sequence, path, n_tokens), msg.Loaded, KEEP_S)
        if all(loaded.ranks):
            return True
        none = np.zeros(0, np.int32)
        self.step(Batch(none, none, none, kv=[Forget(sequence)]))
        return False

    def keep_only(self, directory: str, keys: Sequence[str]) -> list[RankKept]:
        """Delete what else was saved in a directory; see `SequenceFiles.keep_only`."""
        kept = self._process.ask(msg.Keep(directory, list(keys)), msg.Kept, KEEP_S)
        return [RankKept(frozenset(found), free) for found, free in kept.ranks]

    def drop(self, path: str) -> None:
        """Delete what was saved."""
        self._process.ask(msg.Drop(path), msg.Done, KEEP_S)

    def set_threads(self, threads: Sequence[int]) -> None:
        """Decode with so many threads on each rank; see `Instruments.set_threads`."""
        self._process.ask(msg.SetThreads(list(threads)), msg.Done, 4 * self._wait_s)
        self.info = replace(self.info, threads=tuple(threads))

    def trace(self) -> None:
        """Note the times of every step from now on; see `Instruments.trace`."""
        self._process.ask(msg.Trace(on=True), msg.Traced, 4 * self._wait_s)

    def traced(self) -> list[RankTrace]:
        """What every rank noted; see `Instruments.traced`."""
        done = self._process.ask(msg.Trace(on=False), msg.Traced, 4 * self._wait_s)
        return [
            RankTrace(
                clock,
                tuple(
                    StepTrace(begun, ended, np.frombuffer(sums, np.float64).reshape(-1, 4))
                    for begun, ended, sums in steps
                ),
            )
            for clock, steps in done.ranks
        ]

    def probe(self, n_bytes: int) -> tuple[list[float], float]:
        """How fast ranks read and exchange; see `Instruments.probe`."""
        done = self._process.ask(msg.Probe(n_bytes), msg.Probed, KEEP_S)
        return done.read_bytes_per_s, done.exchange_s

    def facts(self) -> list[RankFacts]:
        """What every rank holds now."""
        done = self._process.ask(msg.GetFacts(), msg.Facts, 4 * self._wait_s)
        return [
            RankFacts(host, weights, kv, peak)
            for (host, weights, peak), kv in zip(done.ranks, self._kv_bytes, strict=True)
        ]

    def close(self) -> None:
        """End all ranks."""
        self._process.close()


def _wait_s() -> float:
    text = os.environ.get("DURE_STEP_TIMEOUT", "")
    try:
        seconds = float(text or WAIT_S)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"DURE_STEP_TIMEOUT is {text!r}: give seconds above 0, as in 30")
    return seconds


def _job(
    model: Path,
    shards: Sequence[Path],
    plan: CutPlan,
    limits: Limits,
    threads: Sequence[int],
    options: MpiOptions,
    wait_s: float,
) -> msg.Job:
    return msg.Job(
        socket="",
        model=str(model.absolute()),
        shards=[str(path.absolute()) for path in shards],
        vocabulary=[
            (rows.start, rows.stop) for rows in (cut[Along.VOCABULARY] for cut in plan.ranks)
        ],
        embedding_scale=plan.architecture.embedding_scale(plan.shape.n_embd),
        points=plan.architecture.reduction_points,
        sums_per_pass=2 * plan.shape.n_layer,
        wire=options.wire.value,
        threads=list(threads),
        n_ctx=limits.n_ctx,
        n_batch=limits.n_batch,
        n_sequences=limits.n_sequences,
        n_outputs=limits.n_outputs,
        max_values=limits.n_batch * plan.shape.n_embd,
        two_phase_above=options.two_phase_above,
        wait_s=wait_s,
        staged=options.staged,
        lock=limits.lock,
        pin=limits.pin,
    )


class _Job:
    """The processes of one mpiexec, and the socket to rank 0."""

    def __init__(self, job: msg.Job, launch: Launch, progress: Callable[[float], None]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="dure-", dir=temporary_directory()))
        self._listener = socket.socket(socket.AF_UNIX)
        self._line: Line | None = None
        self._mpiexec: subprocess.Popen[bytes] | None = None
        try:
            self._start(job, launch)
            self._await_ready(progress)
        except BaseException:
            self.close()
            raise

    def _start(self, job: msg.Job, launch: Launch) -> None:
        mpiexec = _find_mpiexec()
        job.socket = str(self._directory / "rank0.sock")
        job_file = self._directory / "job.json"
        job_file.write_bytes(msgspec.json.encode(job))
        try:
            self._listener.bind(job.socket)
        except OSError as error:
            raise ResourceError(
                f"no socket at {job.socket} ({error}): set TMPDIR to a directory with a short path"
            ) from error
        self._listener.listen(1)
        launch.prepare(job, self._directory)
        with (self._directory / "log").open("wb") as log:
            self._mpiexec = subprocess.Popen(
                [*mpiexec, *launch.arguments(job_file, len(job.shards))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=with_huge_pages(
                    {
                        "UCX_LOG_LEVEL": "fatal",
                        **os.environ,
                        "TMPDIR": str(self._directory),  # what hydra leaves there goes with it
                        **launch.environment(),
                    }
                ),
                start_new_session=True,  # a terminal's Ctrl-C is for us alone
            )

    def _await_ready(self, progress: Callable[[float], None]) -> None:
        self._listener.settimeout(0.05)
        while self._line is None:
            try:
                self._line = Line(self._listener.accept()[0])
            except TimeoutError:
                self._check_alive("while starting")
        self._listener.close()
        while True:
            message = self._receive("while loading", None)
            if isinstance(message, msg.Ready):
                return
            progress(message.fraction)

    def ask(
        self,
        request: Any,
        kind: type[Any],
        patience_s: float,
        meanwhile: Callable[[], None] = nothing,
    ) -> Any:
        """Send a request to rank 0 and return its answer, of type `kind`."""
        if self._line is None:
            raise EngineError("the engine is closed: start it again")
        try:
            self._line.send(msg.encode(request))
        except OSError as error:
            raise self._failure("while answering") from error
        meanwhile()
        try:
            answer = self._receive("while answering", patience_s)
        except (ConnectionError, OSError) as error:
            raise self._failure("while answering") from error
        if not isinstance(answer, kind):
            raise EngineError(
                f"rank 0 answered {type(answer).__name__} to {type(request).__name__}"
            )
        return answer

    def _receive(self, when: str, patience_s: float | None) -> Any:
        line = self._line
        assert line is not None
        give_up = None if patience_s is None else time.monotonic() + patience_s
        while not line.wait(0.2):
            self._check_alive(when)
            if give_up is not None and time.monotonic() > give_up:
                raise EngineError(
                    f"rank 0 did not answer within {patience_s:g} s {when}: start again"
                )
        try:
            return msg.decode(line.receive(), msg.FromRank0)
        except (EOFError, ConnectionError) as error:
            raise self._failure(when) from error

    def _check_alive(self, when: str) -> None:
        if self._mpiexec is not None and self._mpiexec.poll() is not None:
            raise self._failure(when)

    def _failure(self, when: str) -> DureError:
        """Why the ranks ended: what one wrote, or what mpiexec saw."""
        if self._mpiexec is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._mpiexec.wait(STOP_S)
        self._await_launchers()
        errors = sorted(self._directory.glob("rank*.error"))
        if errors:
            record = msgspec.json.decode(errors[0].read_bytes(), type=ErrorRecord)
            rank = errors[0].stem.removeprefix("rank")
            return revived(replace(record, problem=f"rank {rank}: {record.problem}"))
        return EngineError(_explain(self._directory, when))

    def _await_launchers(self) -> None:
        """What starts ranks elsewhere also brings back what they said; it is given time for it."""
        give_up = time.monotonic() + STOP_S
        while any(self._directory.glob(f"*{RUNNING}")) and time.monotonic() < give_up:
            time.sleep(0.02)

    def close(self) -> None:
        """End all processes, in peace if they let us, and remove what was written."""
        self._listener.close()
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.send(msg.encode(msg.Stop()))
            self._end_processes(STOP_S)
            self._line.close()
            self._line = None
        else:
            self._end_processes(0.0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _end_processes(self, patience_s: float) -> None:
        """Let mpiexec end, ask it to, make it; then make end what it left, as a halted rank."""
        if self._mpiexec is None:
            return
        for sign, wait_s in (
            (None, patience_s),
            (signal.SIGTERM, STOP_S),
            (signal.SIGKILL, STOP_S),
        ):
            if sign is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._mpiexec.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._mpiexec.wait(wait_s)
                break
        if self._mpiexec.returncode != 0:
            kill_all_of(self._directory / "job.json")


def kill_all_of(job_file: Path) -> None:
    """Kill every process that was started for a job: it is named in their command lines."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(job_file) in process.cmdline():
                process.kill()


def _find_mpiexec() -> list[str]:
    """mpiexec of this Python's environment, or DURE_MPIEXEC."""
    named = os.environ.get("DURE_MPIEXEC")
    beside = Path(sysconfig.get_path("scripts")) / "mpiexec"
    path = named or (str(beside) if beside.exists() else None) or shutil.which("mpiexec")
    if path is None or shutil.which(path) is None:
        cause = (
            f"DURE_MPIEXEC={named} is no program, so there is no mpiexec: unset it, or"
            if named
            else f"mpiexec is not installed ({beside} does not exist):"
        )
        raise ResourceError(f"{cause} `pip install mpich` brings it, or use --ranks 1")
    return [path]


def _rank_wrapper(rank: int) -> list[str]:
    """The words before a rank's own command, as DURE_RANK_WRAPPER says. Raises UsageError."""
    text = os.environ.get("DURE_RANK_WRAPPER", "").replace("{rank}", str(rank))
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"DURE_RANK_WRAPPER={text}: {error}: mend it, or unset it") from None
    if words and shutil.which(words[0]) is None:
        raise UsageError(
            f"DURE_RANK_WRAPPER={text}: {words[0]} is no program: mend it, or unset it"
        )
    return words


class _HereLaunch:
    """All ranks on this machine."""

    def prepare(self, job: msg.Job, directory: Path) -> None:
        """The job file is enough."""

    def environment(self) -> dict[str, str]:
        """Nothing besides."""
        return {}

    def arguments(self, job_file: Path, n_ranks: int) -> list[str]:
        """One part for each rank, so that DURE_RANK_WRAPPER may put each into its own surroundings."""
        parts = [
            [
                "-n",
                "1",
                "sh",
                "-c",
                GUARD,
                str(job_file.with_name(f"rank{rank}.exit")),
                *_rank_wrapper(rank),
                sys.executable,
                "-m",
                "dure.engine.ranks.rank",
                str(job_file),
            ]
            for rank in range(n_ranks)
        ]
        return [word for i, part in enumerate(parts) for word in ([":"] if i else []) + part]


def _explain(directory: Path, when: str) -> str:
    """One line about the rank that died first, from its guard's note, or else mpiexec's last line."""
    notes = sorted(directory.glob("rank*.exit"), key=lambda note: note.stat().st_mtime_ns)
    if not notes:
        log = (directory / "log").read_text(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(log) if line.strip()), "")
        return f"mpiexec ended {when} ({last[:200] or 'no reason given'}): {_REPORT}"
    rank, code = notes[0].stem.removeprefix("rank"), int(notes[0].read_text() or 0)
    if code == _KILLED:
        return (
            f"rank {rank} was killed {when} (signal 9): if nobody did, its machine ran out of "
            "memory; use a smaller --ctx or more ranks"
        )
    cause = f"signal {code - 128}" if code > 128 else f"exit code {code}"
    return f"rank {rank} died {when} ({cause}{_last_words(notes[0])}): {_REPORT}"


def _last_words(note: Path) -> str:
    """The last line that a rank wrote before it left its note, as of a Python that could not start."""
    said = note.with_name(f"{note.name}.words")
    lines = [line.strip() for line in said.read_text(errors="replace").splitlines() if line.strip()]
    return f", {lines[-1][:200]}" if lines else ""
