"""A running job: the processes of one mpiexec, and the channel to its rank 0.

Knows processes: how they are started, how their end shows, and that none is left behind.
Refuses to know what is asked of the ranks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from dure.engine.environment import with_huge_pages
from dure.engine.executor import nothing
from dure.engine.ranks import messages as msg
from dure.engine.ranks.channel import Channel
from dure.engine.ranks.failures import failure_of
from dure.engine.ranks.job import RUNNING, Job
from dure.engine.ranks.launch import Launch, find_mpiexec, kill_all_of
from dure.errors import DureError, EngineError, ResourceError
from dure.places import temporary_directory

__all__ = ["RunningJob"]

STOP_S = 5.0  # for ranks to end in peace
ACCEPT_S, CHECK_S = 0.05, 0.2  # between checks that mpiexec still runs

Answer = TypeVar("Answer", bound=msg.FromRank0)


class RunningJob:
    """The processes of one mpiexec, and the channel to rank 0.

    Starts them and waits until every rank is ready; progress: of rank 0's loading, 0 to 1. Raises the
    error of the rank that could not load; nothing runs then. `close` ends all processes.
    """

    def __init__(self, job: Job, launch: Launch, progress: Callable[[float], None]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="dure-", dir=temporary_directory()))
        self._listener = socket.socket(socket.AF_UNIX)
        self._rank0: Channel | None = None
        self._mpiexec: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        try:
            self._start(job, launch)
            self._rank0 = self._accept()
            self._await_ready(self._rank0, progress)
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------ starting

    def _start(self, job: Job, launch: Launch) -> None:
        mpiexec = find_mpiexec()
        job.socket = str(self._directory / "rank0.sock")
        job_file = self._directory / "job.json"
        job_file.write_bytes(msgspec.json.encode(job))
        try:
            self._listener.bind(job.socket)
        except OSError as error:
            raise ResourceError(
                f"no socket at {job.socket} ({error})",
                "set TMPDIR to a directory with a short path",
            ) from error
        self._listener.listen(1)
        launch.prepare(job, self._directory)
        environment = {
            "UCX_LOG_LEVEL": "fatal",
            **os.environ,
            "TMPDIR": str(self._directory),  # what hydra leaves there goes with it
            **launch.environment(),
        }
        with (self._directory / "log").open("wb") as log:
            self._mpiexec = subprocess.Popen(
                [*mpiexec, *launch.arguments(job_file, len(job.shards))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=with_huge_pages(environment),
                start_new_session=True,  # a terminal's Ctrl-C is for us alone
            )

    def _accept(self) -> Channel:
        """Wait for rank 0 to connect."""
        self._listener.settimeout(ACCEPT_S)
        while True:
            try:
                connected, _ = self._listener.accept()
            except TimeoutError:
                self._check_alive("while starting")
            else:
                self._listener.close()
                return Channel(connected)

    def _await_ready(self, rank0: Channel, progress: Callable[[float], None]) -> None:
        while not isinstance(message := self._receive(rank0, "while loading"), msg.RanksReady):
            if isinstance(message, msg.ShardLoading):
                progress(message.fraction)

    # ------------------------------------------------------------ requests

    def ask(
        self,
        request: msg.ToRank0,
        kind: type[Answer],
        patience_s: float,
        meanwhile: Callable[[], None] = nothing,
    ) -> Answer:
        """Send a request to rank 0 and return its answer, of type `kind`.

        meanwhile: is called while the ranks work. Raises the error of the rank that ended, EngineError if
        rank 0 says nothing for patience_s.
        """
        if self._rank0 is None:
            raise EngineError("the engine is closed", "start it again")
        try:
            self._rank0.send(msg.encode(request))
        except OSError as error:
            raise self._failure("while answering") from error
        meanwhile()
        try:
            answer = self._receive(self._rank0, "while answering", patience_s)
        except (ConnectionError, OSError) as error:
            raise self._failure("while answering") from error
        if not isinstance(answer, kind):
            raise EngineError(
                f"rank 0 answered {type(answer).__name__} to {type(request).__name__}"
            )
        return answer

    def _receive(self, rank0: Channel, when: str, patience_s: float | None = None) -> msg.FromRank0:
        """Wait for rank 0's next message; patience_s None: for as long as mpiexec runs."""
        give_up = None if patience_s is None else time.monotonic() + patience_s
        while not rank0.wait(CHECK_S):
            self._check_alive(when)
            if give_up is not None and time.monotonic() > give_up:
                raise EngineError(
                    f"rank 0 did not answer within {patience_s:g} s {when}", "start again"
                )
        try:
            return msg.decode_answer(rank0.receive())
        except (EOFError, ConnectionError) as error:
            raise self._failure(when) from error

    # ------------------------------------------------------------ ends

    def _check_alive(self, when: str) -> None:
        if self._mpiexec is not None and self._mpiexec.poll() is not None:
            raise self._failure(when)

    def _failure(self, when: str) -> DureError:
        """Return why the ranks ended, once all have said so."""
        if self._mpiexec is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._mpiexec.wait(STOP_S)
        self._await_launchers()
        return failure_of(self._directory, when)

    def _await_launchers(self) -> None:
        """Give a launcher of ranks elsewhere the time to bring back what they said."""
        give_up = time.monotonic() + STOP_S
        while any(self._directory.glob(f"*{RUNNING}")) and time.monotonic() < give_up:
            time.sleep(0.02)

    def close(self) -> None:
        """End all processes, in peace if they let us, and remove what was written.

        A fork of the process that started them has a copy of this, whose end changes nothing.
        """
        if os.getpid() != self._owner:
            return
        self._listener.close()
        if self._rank0 is not None:
            with contextlib.suppress(OSError):
                self._rank0.send(msg.encode(msg.StopRanks()))
            self._end_processes(STOP_S)
            self._rank0.close()
            self._rank0 = None
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
