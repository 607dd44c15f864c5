"""The side of the processes: a keeper that never runs anything, and the workers that it forks.

The keeper is forked from the caller's process while that has one thread. It reads nothing but requests
for another worker, so no input can end it, and a new worker costs one fork of what it has loaded.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import socket
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from dure.errors import DureError, ErrorRecord
from dure.processes import end_with_parent

__all__ = ["Bug", "IsolationLimits", "OutOfMemory", "Result", "keep", "keep_from"]

MiB = 1 << 20


@dataclass(frozen=True)
class IsolationLimits:
    """What a call may use.

    time_s: until its worker is killed. memory_bytes: of address space, beyond what is loaded.
    stack_bytes: for libraries that recurse once for every character. most: workers at once, of one
    owner; each half of them, for short and for long calls, has one more for an owner that has none.
    niceness: added, so that those who wait for something else come first.
    """

    time_s: float = 30.0
    memory_bytes: int = 1024 * MiB
    stack_bytes: int = 64 * MiB
    most: int = 4
    niceness: int = 5


@dataclass(frozen=True)
class Result:
    """What the function returned."""

    value: Any


@dataclass(frozen=True)
class OutOfMemory:
    """The function needed more than its worker has."""


@dataclass(frozen=True)
class Bug:
    """The function raised what is no DureError."""

    traceback: str


def keep(control: socket.socket, tools: Any, limits: IsolationLimits) -> NoReturn:
    """Fork a worker for every socket that comes; end with the caller's process.

    control: gives the sockets. tools: the first argument of every function.
    """
    _let_go(control)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # these end the caller, and its end ends us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the workers
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            os._exit(0)
        for descriptor in descriptors:
            _fork_worker(control, descriptor, tools, limits)
            os.close(descriptor)


def keep_from(descriptor: int, tools: Any) -> NoReturn:
    """Keep workers for another process, that has started this one with the number of a socket."""
    keep(socket.socket(fileno=descriptor), tools, IsolationLimits())


def _let_go(control: socket.socket) -> None:
    """Close what the caller has open: others wait for its end, and it would seem to go on here."""
    gc.freeze()  # nothing of the caller's is collected here, which would close numbers used anew
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.closerange(3, control.fileno())
    os.closerange(control.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _fork_worker(
    control: socket.socket, descriptor: int, tools: Any, limits: IsolationLimits
) -> None:
    try:
        pid = os.fork()
    except OSError:
        return  # the caller sees its socket closed
    if pid == 0:
        control.close()
        _work(Connection(descriptor), tools, limits)


def _work(connection: Connection, tools: Any, limits: IsolationLimits) -> NoReturn:
    """Run the functions that come, until the caller closes the connection."""
    try:
        _bound(limits)
        connection.send_bytes(str(os.getpid()).encode())
        threading.stack_size(limits.stack_bytes)
        thread = threading.Thread(target=_answer_all, args=(connection, tools))
        thread.start()
        thread.join()
    finally:
        os._exit(0)  # nothing of the caller's process is cleaned up here


def _bound(limits: IsolationLimits) -> None:
    end_with_parent(signal.SIGKILL)
    os.nice(limits.niceness)
    loaded = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, loaded + limits.stack_bytes + limits.memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard < 0 else min(value, hard), hard))


def _answer_all(connection: Connection, tools: Any) -> None:
    while True:
        try:
            question = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(_answer(question, tools))


def _answer(question: bytes, tools: Any) -> bytes:
    try:
        function, arguments = pickle.loads(question)  # noqa: S301 - of the process that forked this one
        return pickle.dumps(Result(function(tools, *arguments)))
    except DureError as error:
        return pickle.dumps(error.record())
    except MemoryError:
        return pickle.dumps(OutOfMemory())
    except Exception:
        return pickle.dumps(Bug(traceback.format_exc()))


Answer = Result | ErrorRecord | OutOfMemory | Bug
