"""The side of the caller: calls that wait for a worker, run in it, and survive its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from multiprocessing.connection import Connection
from typing import Any, Generic, Self, TypeVar, TypeVarTuple, Unpack

from dure.errors import ErrorRecord, ResourceError, UsageError, revived
from dure.fair_threads import FairThreads
from dure.isolation.keeper import Answer, Bug, IsolationLimits, OutOfMemory, Result, keep

__all__ = ["Isolation", "IsolationLimits", "current_owner"]

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

current_owner: ContextVar[str] = ContextVar("current_owner", default="")  # whose calls are made


class Isolation(Generic[T]):
    """Calls functions of a module with `tools` in processes of their own.

    tools: what is loaded already, and shared. Make it while the process has one thread, and few other
    things loaded: all of it is forked. A function that ends its worker, takes too long or too much
    memory raises UsageError; a DureError of its own is raised here; other errors are RuntimeErrors.
    Calls take turns between their owners (`current_owner`), and no owner's hold up another's.
    """

    def __init__(self, tools: T, limits: IsolationLimits | None = None) -> None:
        limits = limits or IsolationLimits()
        ours, theirs = socket.socketpair()
        keeper = os.fork()
        if keeper == 0:
            try:
                ours.close()
                keep(theirs, tools, limits)
            finally:
                os._exit(1)
        theirs.close()
        self._begin(ours, limits, keeper, lambda: os.waitpid(keeper, 0))

    @classmethod
    def of_module(cls, module: str, *arguments: str) -> Self:
        """Return one whose tools another process loads: for a process that may have threads already.

        module: is run with a socket's number and the arguments, and must end in `keep_from`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", module, str(theirs.fileno()), *arguments]
            keeper = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        isolation = cls.__new__(cls)
        isolation._begin(ours, IsolationLimits(), keeper.pid, keeper.wait)
        return isolation

    def _begin(
        self,
        control: socket.socket,
        limits: IsolationLimits,
        keeper: int,
        reap: Callable[[], object],
    ) -> None:
        self._control, self._limits, self._keeper, self._reap = control, limits, keeper, reap
        self._workers = _Workers(self._control, self._limits)
        # Long calls never take the last workers, so short ones do not wait for them.
        n_long = max(1, self._limits.most // 2)
        self._long = FairThreads(n_long, "isolated-long")
        self._short = FairThreads(max(1, self._limits.most - n_long), "isolated")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: Callable[[T, Unpack[Ts]], R], *arguments: *Ts) -> R:
        """Run a function of a module, and wait. Arguments and result are pickled."""
        return self._submit(self._short, function, arguments).result()

    async def called(
        self,
        function: Callable[[T, Unpack[Ts]], R],
        *arguments: *Ts,
        is_long: bool = False,
    ) -> R:
        """As `call`, without holding up other tasks. is_long: it may take more than milliseconds."""
        lane = self._long if is_long else self._short
        return await asyncio.wrap_future(self._submit(lane, function, arguments))

    def close(self) -> None:
        """End all workers, whatever they do, and the keeper."""
        self._control.close()
        self._workers.close()
        for lane in (self._short, self._long):
            lane.close()
        self._reap()

    def _submit(
        self, lane: FairThreads, function: Callable[..., R], arguments: tuple[Any, ...]
    ) -> Future[R]:
        question = pickle.dumps((function, arguments))
        return lane.submit(current_owner.get(), self._workers.ask, question)


class _Workers:
    """The workers, forked when all others are busy; never more than the lanes have threads."""

    def __init__(self, control: socket.socket, limits: IsolationLimits) -> None:
        self._control, self._limits = control, limits
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._all: set[_Worker] = set()
        self._is_closed = False

    def ask(self, question: bytes) -> Any:
        worker, is_new = self._taken()
        try:
            answer = worker.ask(question, self._limits.time_s)
        except _LostError as error:
            self._forget(worker)
            if not is_new:  # it may have died of what it was asked before
                return self.ask(question)
            raise UsageError(
                "the library that reads this text cannot, and ended its process",
                "make it shorter or simpler",
            ) from error
        except BaseException:
            self._forget(worker)
            raise
        with self._lock:
            self._idle.append(worker)
        return _value(answer, self._limits)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            workers = list(self._all)
        for worker in workers:
            worker.kill()

    def _taken(self) -> tuple[_Worker, bool]:
        """Return a worker, and whether it is new."""
        with self._lock:
            if self._is_closed:
                raise ResourceError("the processes that read requests have ended")
            if self._idle:
                return self._idle.pop(), False
            worker = _Worker(self._control)
            self._all.add(worker)
            return worker, True

    def _forget(self, worker: _Worker) -> None:
        with self._lock:
            self._all.discard(worker)
        worker.kill()
        worker.close()


class _LostError(Exception):
    """The worker has ended."""


class _Worker:
    """One worker, as its caller sees it. Raises ResourceError if none can be forked."""

    def __init__(self, control: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(control, [b"+"], [theirs.fileno()])
            except OSError as error:
                raise ResourceError("the process that starts others has ended") from error
        self._connection = Connection(ours.detach())
        try:
            self._pidfd = os.pidfd_open(int(self._connection.recv_bytes()))
        except (EOFError, OSError) as error:
            self._connection.close()
            raise ResourceError(
                "no process can be started to read a request", "free some memory"
            ) from error

    def ask(self, question: bytes, time_s: float) -> Answer:
        """Return the answer to a question. Raises UsageError if it comes too late, else _LostError."""
        try:
            self._connection.send_bytes(question)
            if not self._connection.poll(time_s):
                raise UsageError(
                    f"reading this takes longer than {time_s:g} s", "make it shorter or simpler"
                )
            answer: Answer = pickle.loads(self._connection.recv_bytes())  # noqa: S301 - our own fork
        except (EOFError, OSError) as error:
            raise _LostError from error
        return answer

    def kill(self) -> None:
        """End the process, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Close what leads to the process."""
        self._connection.close()
        os.close(self._pidfd)


def _value(answer: Answer, limits: IsolationLimits) -> Any:
    match answer:
        case Result(value):
            return value
        case ErrorRecord():
            raise revived(answer)
        case OutOfMemory():
            size = f"{limits.memory_bytes >> 20} MiB"
            raise UsageError(
                f"reading this takes more than {size} of memory", "make it shorter or simpler"
            )
        case Bug(traceback):
            raise RuntimeError(f"in an isolated process:\n{traceback}")
