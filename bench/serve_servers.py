"""The servers under load: how each is started, found healthy, asked and stopped.

Knows the command lines of `dure serve` and of llama.cpp's `llama-server`, and how to watch the
memory and the processor time of everything a server started.
Refuses to know what is asked of them and how their answers compare.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from contenders import llama_server_program
from measure import BenchError
from serve_client import Address, fetch

HOST = "127.0.0.1"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What both servers are given. `context` is tokens for each of the `slots`.

    cache_mb: for computed prompts beside the KV cache; None: each server's own default.
    """

    model: Path
    threads: int
    slots: int
    context: int
    cache_mb: int | None = None


def llama_server(setting: Setting, port: int, more: Sequence[str] = ()) -> list[str]:
    """Return the command that starts llama-server; what neither it nor `more` says is its default."""
    return [
        llama_server_program(), "--model", str(setting.model),
        "--host", HOST, "--port", str(port), "--threads", str(setting.threads),
        "--parallel", str(setting.slots), "--ctx-size", str(setting.slots * setting.context),
        "--metrics", *_cache("--cache-ram", setting), *more,
    ]  # fmt: skip


def dure_serve(
    setting: Setting, port: int, program: str | None = None, more: Sequence[str] = ()
) -> list[str]:
    """Return the command that starts `dure serve`.

    program: the `dure` of another build. more: of its options.
    """
    ours = [program] if program else [sys.executable, "-m", "dure.cli.main"]
    return [
        *ours, "serve", str(setting.model),
        "--host", HOST, "--port", str(port), "--threads", str(setting.threads),
        "--parallel", str(setting.slots), "--ctx", str(setting.context),
        *_cache("--cache-size", setting), *more,
    ]  # fmt: skip


def _cache(option: str, setting: Setting) -> list[str]:
    return [] if setting.cache_mb is None else [option, str(setting.cache_mb)]


Command = Callable[[Setting, int], list[str]]

US = "dure"
PEERS: dict[str, Command] = {
    f"llama-server -fa {state}": partial(llama_server, more=("--flash-attn", state))
    for state in ("off", "on")
}
"""llama-server without and with flash attention: which is faster depends on model, machine and load."""
SERVERS: dict[str, Command] = {US: dure_serve, **PEERS}


class Server:
    """A server that runs, with everything it has started."""

    def __init__(self, argv: list[str], port: int, log: Path) -> None:
        self.address = Address(HOST, port)
        self.log = log
        self._name = shlex.join(argv[:4])
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def processes(self) -> list[psutil.Process]:
        """The server's process and all its descendants."""
        try:
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """Processor time of all its processes so far."""
        return sum(_of(process, lambda p: sum(p.cpu_times()[:2])) for process in self.processes())

    def memory_bytes(self) -> int:
        """Memory that its processes hold; what they share is counted once (PSS)."""
        return int(
            sum(_of(process, lambda p: p.memory_full_info().pss) for process in self.processes())
        )

    def wait_healthy(self) -> None:
        """Return once `/health` answers 200. Raises BenchError where it does not in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self.failure(f"ended with status {self._process.returncode}")
            if self.healthy():
                return
            time.sleep(0.1)
        raise self.failure(f"was not healthy within {START_TIMEOUT_S:g} s")

    def healthy(self) -> bool:
        """Whether `/health` answers 200 now."""
        try:
            asyncio.run(fetch(self.address, "GET", "/health"))
        except (BenchError, OSError):
            return False
        return True

    def failure(self, what: str) -> BenchError:
        """An error with the server's last words."""
        lines = self.log.read_text(errors="replace").splitlines()
        return BenchError("\n  ".join([f"`{self._name} ...` {what}:", *lines[-8:]]))

    def stop(self) -> None:
        """End it as a user would, and what is left of it by force."""
        left = self.processes()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
        for process in left:
            if process.is_running():
                process.kill()
        self._process.wait()


def _of(process: psutil.Process, read: Callable[[psutil.Process], float]) -> float:
    try:
        return read(process)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


@contextmanager
def running(name: str, setting: Setting) -> Iterator[Server]:
    """Start the server called `name`, wait until it is healthy, and stop it at the end."""
    with running_command(name, SERVERS[name], setting) as server:
        yield server


@contextmanager
def running_command(name: str, command: Command, setting: Setting) -> Iterator[Server]:
    """Start a server by its command, wait until it is healthy, and stop it at the end."""
    port = _free_port()
    handle, log = tempfile.mkstemp(prefix=f"{name}-", suffix=".log")
    os.close(handle)
    server = Server(command(setting, port), port, Path(log))
    try:
        server.wait_healthy()
        yield server
    finally:
        server.stop()
        server.log.unlink()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
