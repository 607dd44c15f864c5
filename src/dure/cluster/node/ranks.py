"""A node's rank: started for the root, watched, and ended with the connection to it.

MPI's process manager has a proxy on every machine, which starts the rank there and talks to `mpiexec`
without any proof of who that is. So the proxy is given an address of this machine only, and what it says
travels inside the TLS connection between root and node (`root.launcher` is the other end).
Knows processes and the run's directory. Refuses to start anything but dure's own rank.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from dure.cluster.network import network_environment
from dure.cluster.node.shards import ShardStore
from dure.cluster.node_api import BLOCK_BYTES, RankOrder, RankReport
from dure.engine.environment import with_huge_pages
from dure.engine.ranks.launch import GUARD, kill_all_of
from dure.engine.ranks.shared_memory import check_room
from dure.errors import ResourceError

__all__ = ["RankRuns"]

END_S = 5.0
Send = Callable[[bytes], Awaitable[None]]


class RankRuns:
    """Run this node's rank, one at a time: a new order ends what the one before it started."""

    def __init__(self, directory: Path, store: ShardStore) -> None:
        self._directory, self._saved, self._store = directory / "run", directory / "prefixes", store
        self._current: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run the block once the one before it has ended; the next one cancels it."""
        before, self._current = self._current, asyncio.current_task()
        if before is not None and not before.done():
            before.cancel()
            await asyncio.wait({before}, timeout=2 * END_S)
        yield

    async def run(
        self, order: RankOrder, device: str, incoming: AsyncIterator[bytes], send: Send
    ) -> RankReport:
        """Start the rank, and let its proxy talk to mpiexec until one of them ends.

        incoming: what mpiexec says; its end ends the rank. Raises UsageError if the shard is not here,
        ResourceError if the rank cannot be started.
        """
        self._prepare(order)
        proxy = _Proxy(self._directory, order.proxy_id, _environment(self._directory, device))
        try:
            code = await proxy.run(incoming, send)
        finally:
            await asyncio.shield(proxy.end())
        return RankReport(code, _files_in(self._directory))

    def _prepare(self, order: RankOrder) -> None:
        """Make an empty directory for the run, with the job and the only program that the proxy finds."""
        check_room(1)
        path = str(self._store.use(order.shard))
        shutil.rmtree(self._directory, ignore_errors=True)
        job_file, note = self._directory / "job.json", f"rank{order.rank}.exit"
        order.job.shards = [path] * len(order.job.shards)
        order.job.saved_directory = str(self._saved)
        try:
            self._directory.mkdir(parents=True)
            job_file.write_bytes(msgspec.json.encode(order.job))
            words = [sys.executable, "-m", "dure.engine.ranks.rank", str(job_file)]
            program = ["sh", "-c", GUARD, str(self._directory / note), *words]
            script = self._directory / "dure-rank"
            script.write_text(f"#!/bin/sh\nexec {shlex.join(program)}\n")
            script.chmod(0o700)
        except OSError as error:
            raise ResourceError(f"{self._directory} cannot be written: {error.strerror}") from error


class _Proxy:
    """Run Hydra's proxy, and hold the one connection it makes."""

    def __init__(self, directory: Path, proxy_id: int, environment: dict[str, str]) -> None:
        self._directory, self._id, self._environment = directory, proxy_id, environment
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, incoming: AsyncIterator[bytes], send: Send) -> int:
        """Start the proxy and return its exit code; it is ended when `incoming` ends."""
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        connected = asyncio.get_running_loop().create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if connected.done():
                writer.close()
            else:
                connected.set_result((reader, writer))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            self._process = await self._start(server.sockets[0].getsockname()[1])
            ended = asyncio.create_task(self._process.wait())
            either: set[asyncio.Future[Any]] = {ended, connected}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if connected.done() and await _talk(*connected.result(), incoming, send):
                await asyncio.wait({ended}, timeout=END_S)
            await self.end()
            return await ended
        finally:
            server.close()

    async def _start(self, port: int) -> asyncio.subprocess.Process:
        program = Path(sysconfig.get_path("scripts")) / "hydra_pmi_proxy"
        numbers = (
            *("--pgid", "0", "--retries", "10", "--usize", "-1", "--pmi-port", "0"),
            *("--gpus-per-proc", "-2", "--gpu-subdevs-per-proc", "-2"),
        )
        try:
            with (self._directory / "log").open("wb") as log:
                return await asyncio.create_subprocess_exec(
                    *(str(program), "--control-port", f"127.0.0.1:{port}", "--rmk", "user"),
                    *("--launcher", "rsh", "--demux", "poll", *numbers),
                    *("--proxy-id", str(self._id)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._directory,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise ResourceError(f"{program} cannot be started: {error}") from error

    async def end(self) -> None:
        """End every process of the run."""
        process = self._process
        if process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(process.wait(), END_S)
        await asyncio.to_thread(kill_all_of, self._directory / "job.json")
        await process.wait()


async def _talk(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    incoming: AsyncIterator[bytes],
    send: Send,
) -> bool:
    """Pass on what proxy and mpiexec say until one ends; return if that was the proxy."""

    async def to_root() -> None:
        while block := await reader.read(BLOCK_BYTES):
            await send(block)

    async def to_proxy() -> None:
        async for block in incoming:
            writer.write(block)
            await writer.drain()

    tasks = [asyncio.create_task(to_root()), asyncio.create_task(to_proxy())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()


def _environment(directory: Path, device: str) -> dict[str, str]:
    """Return what the rank sees: of this process's own only what every program needs."""
    names = ("HOME", "LANG", "LD_LIBRARY_PATH", "USER")
    return with_huge_pages(
        {
            **{name: os.environ[name] for name in names if name in os.environ},
            "PATH": f"{directory}:/usr/bin:/bin",
            "TMPDIR": str(directory),  # what hydra leaves there goes with the next run
            **network_environment(device),
        }
    )


def _files_in(directory: Path) -> dict[str, str]:
    return {
        path.name: path.read_text(errors="replace")[-4096:]
        for pattern in ("rank*.error", "rank*.exit", "rank*.words")
        for path in directory.glob(pattern)
    }
