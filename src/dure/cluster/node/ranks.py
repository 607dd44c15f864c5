"""A node's rank: started for the root, watched, and ended with the line to it.

MPI's process manager has a proxy on every machine, which starts the rank there and talks to `mpiexec`
without any proof of who that is. So the proxy is given an address of this machine only, and what goes
through it travels inside the TLS line between root and node (`launcher` is the other end).
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

from dure.cluster.node.shards import ShardStore
from dure.engine.environment import with_huge_pages
from dure.engine.ranks.launch import GUARD, kill_all_of
from dure.engine.ranks.messages import Job
from dure.errors import ClusterError, ResourceError, UsageError
from dure.hardware.health import Link

__all__ = [
    "MOST_ORDER_BYTES",
    "RankOrder",
    "RankReport",
    "RankRuns",
    "device_of",
    "named_device",
    "network_environment",
]

MOST_ORDER_BYTES = 1 << 20
BLOCK_BYTES = 1 << 16
END_S = 5.0
Send = Callable[[bytes], Awaitable[None]]


class RankOrder(msgspec.Struct, frozen=True):
    """What the root wants started. job: as for every rank; shard: what this node calls its part."""

    job: Job
    rank: int
    shard: str
    proxy_id: int


class RankReport(msgspec.Struct, frozen=True):
    """How it ended. files: what the rank left beside its job file, which says why."""

    exit_code: int
    files: dict[str, str]


class RankRuns:
    """The rank of this node, one at a time: a new order ends what the one before it started."""

    def __init__(self, directory: Path, store: ShardStore) -> None:
        self._directory, self._kept, self._store = directory / "run", directory / "prefixes", store
        self._current: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """The block runs when the one before it has ended, and is cancelled by the next."""
        before, self._current = self._current, asyncio.current_task()
        if before is not None and not before.done():
            before.cancel()
            await asyncio.wait({before}, timeout=2 * END_S)
        yield

    async def run(
        self, order: RankOrder, device: str, incoming: AsyncIterator[bytes], send: Send
    ) -> RankReport:
        """Start the rank, and let its proxy talk to mpiexec until either end has had enough.

        incoming: what mpiexec says; its end ends the rank. Raises UsageError where the shard is not
        here, ResourceError where the rank cannot be started.
        """
        self._prepare(order)
        proxy = _Proxy(self._directory, order.proxy_id, _environment(self._directory, device))
        try:
            code = await proxy.run(incoming, send)
        finally:
            await asyncio.shield(proxy.end())
        return RankReport(code, _files_in(self._directory))

    def _prepare(self, order: RankOrder) -> None:
        """Make the run's directory anew, with the job and the only program that the proxy finds."""
        path = str(self._store.use(order.shard))
        shutil.rmtree(self._directory, ignore_errors=True)
        job_file, note = self._directory / "job.json", f"rank{order.rank}.exit"
        order.job.shards = [path] * len(order.job.shards)
        order.job.saved_directory = str(self._kept)
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
    """Hydra's proxy, and the one connection it makes."""

    def __init__(self, directory: Path, proxy_id: int, environment: dict[str, str]) -> None:
        self._directory, self._id, self._environment = directory, proxy_id, environment
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, incoming: AsyncIterator[bytes], send: Send) -> int:
        """The proxy's exit code, once it has ended; it is made to where `incoming` ends."""
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
        """No process of the run is left."""
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
    """Pass on what proxy and mpiexec say, until one has ended; whether that was the proxy."""

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
    """What the rank sees: of this process's own only what programs need to run at all."""
    kept = ("HOME", "LANG", "LD_LIBRARY_PATH", "USER")
    return with_huge_pages(
        {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "PATH": f"{directory}:/usr/bin:/bin",
            "TMPDIR": str(directory),  # what hydra leaves there goes with the next run
            **network_environment(device),
        }
    )


def network_environment(device: str) -> dict[str, str]:
    """What lets MPI use one network device, and nothing else.

    It looks up its own machine's name; a name server that is silent is not waited for.
    """
    return {
        "MPIR_CVAR_NOLOCAL": "1",
        "RES_OPTIONS": "timeout:1 attempts:1",
        "UCX_LOG_LEVEL": "fatal",
        "UCX_NET_DEVICES": device,
        "UCX_TLS": "tcp,self",
    }


def device_of(address: str, links: tuple[Link, ...]) -> str:
    """The network device that has an address. Raises ClusterError where none has."""
    for link in links:
        if address in link.addresses:
            return link.name
    raise ClusterError(f"no network device of this machine has the address {address}")


def named_device(name: str, links: tuple[Link, ...]) -> str:
    """A network device that the user names. Raises UsageError where it is not up."""
    if name not in (names := [link.name for link in links]):
        raise UsageError(
            f"--interface {name}: this machine has no such network device that is up, only "
            f"{', '.join(names)}"
        )
    return name


def _files_in(directory: Path) -> dict[str, str]:
    return {
        path.name: path.read_text(errors="replace")[-4096:]
        for pattern in ("rank*.error", "rank*.exit", "rank*.words")
        for path in directory.glob(pattern)
    }
