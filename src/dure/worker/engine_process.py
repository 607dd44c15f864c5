"""Runs one engine process: a child of this process, connected by a Unix socket.

Knows how bytes travel and why a process ended. Refuses to know what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from dure.engine.environment import with_huge_pages
from dure.engine.ranks.channel import LENGTH
from dure.places import temporary_directory
from dure.worker import protocol as msg

__all__ = ["EngineProcess"]

STOP_S = 10.0
_PREFIX = "dure-engine-"

Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EngineProcess:
    """A process that runs one engine. handle: called with every message that it sends."""

    def __init__(self, handle: Callable[[msg.FromWorker], None]) -> None:
        self._handle = handle
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Return the process's ID once it runs."""
        return self._process.pid if self._process else None

    def send(self, message: msg.ToWorker) -> None:
        """Send a message; it is lost if the engine is not connected."""
        self.send_encoded(msg.encode(message))

    def send_encoded(self, data: bytes) -> None:
        """Send an encoded message."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(LENGTH.pack(len(data)) + data)

    async def run(self, options: msg.EngineOptions) -> str:
        """Start the process and handle its messages until it ends; return why it ended.

        Raises OSError if the system cannot start it.
        """
        temporary = temporary_directory()
        _remove_left_behind(temporary)
        directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=temporary))
        connected: asyncio.Future[Connected] = asyncio.get_running_loop().create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not connected.done():
                connected.set_result((reader, writer))

        server: asyncio.Server | None = None
        try:
            path = directory / "engine.sock"
            server = await asyncio.start_unix_server(accept, path)
            self._process = await _spawn(path, directory / "log")
            return await self._follow(self._process, connected, options, directory / "log")
        finally:
            if server is not None:
                server.close()
            await self._reap()
            if connected.done():
                connected.result()[1].close()
            shutil.rmtree(directory, ignore_errors=True)

    async def _follow(
        self,
        process: asyncio.subprocess.Process,
        connected: asyncio.Future[Connected],
        options: msg.EngineOptions,
        log: Path,
    ) -> str:
        ended = asyncio.create_task(process.wait())
        either: set[asyncio.Future[Any]] = {ended, connected}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if connected.done():
            reader, self._writer = connected.result()
            self.send(msg.Start(options))
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    self._handle(await _receive(reader))
        self._writer = None
        await asyncio.wait({ended}, timeout=STOP_S)  # if it does not end, it is killed
        ended.cancel()
        return _cause_of_end(process.returncode, log)

    async def stop(self, *, is_loading: bool) -> None:
        """Ask the process to end, and kill it after STOP_S. is_loading: it does not read messages yet."""
        self.send(msg.Stop())
        process = self._process
        if process is None:
            return
        if is_loading and process.returncode is None:
            process.terminate()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_S)
        if process.returncode is None:
            process.kill()

    async def _reap(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._writer = None


async def _spawn(socket: Path, log: Path) -> asyncio.subprocess.Process:
    with log.open("wb") as file:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dure.worker.process", str(socket)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=with_huge_pages(os.environ),
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone
        )


async def _receive(reader: asyncio.StreamReader) -> msg.FromWorker:
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    message: msg.FromWorker = msg.decode(await reader.readexactly(size), msg.FromWorker)
    return message


def _remove_left_behind(directory: Path) -> None:
    """Delete the directories of processes that were killed."""
    for path in directory.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _cause_of_end(code: int | None, log: Path) -> str:
    """Return why a process ended: its exit code and the last line of its log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"{cause}, {lines[-1].strip()[:200]}" if lines else cause
