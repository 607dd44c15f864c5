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
import socket
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dure.cluster.job_identity import JobIdentity, busy_error
from dure.cluster.network import network_environment
from dure.cluster.node.shards import ShardStore
from dure.cluster.node_api import BLOCK_BYTES, RANK_SCRIPT, NodeJob, RankOrder, RankReport
from dure.engine.environment import with_huge_pages
from dure.engine.ranks.launch import GUARD, kill_all_of
from dure.engine.ranks.shared_memory import make_room
from dure.errors import ClusterError, ResourceError
from dure.hardware.gpu import gpu_environment
from dure.hardware.probe import memory_of
from dure.hardware.rank_priority import priority_environment

__all__ = ["RankRuns"]

END_S = 5.0
Send = Callable[[bytes], Awaitable[None]]


@dataclass
class _Run:
    """A job's rank. shares: see `RankOrder`. task: an end of the job cancels it."""

    owner: JobIdentity
    shares: bool
    threads: int
    task: asyncio.Task[Any]
    proxy: _Proxy | None = None


class RankRuns:
    """Run this node's ranks: one for each job, and of several jobs only if all but one share."""

    def __init__(self, directory: Path, store: ShardStore) -> None:
        self._directory, self._saved, self._store = directory / "run", directory / "prefixes", store
        self._runs: dict[str, _Run] = {}  # by job
        self._is_closed = False
        shutil.rmtree(self._directory, ignore_errors=True)  # of an agent that was killed

    def jobs(self) -> list[NodeJob]:
        """Return whose ranks run."""
        return [
            NodeJob(run.owner, run.threads, memory_of(run.proxy.pid) if run.proxy else 0)
            for run in list(self._runs.values())
        ]

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Start no rank from now on; if the block fails, until it ends. Raises ClusterError if one runs.

        It is for the event loop, which admits ranks.
        """
        self._check_open()
        if owners := [run.owner for run in self._runs.values()]:
            raise busy_error({socket.gethostname(): owners}, may_share=False)
        self._is_closed = True
        try:
            yield
        except BaseException:
            self._is_closed = False
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClusterError(
                "this node takes another name, or leaves its cluster", "try again in a moment"
            )

    async def run(
        self, order: RankOrder, device: str, incoming: AsyncIterator[bytes], send: Send
    ) -> RankReport:
        """Start the rank, and let its proxy talk to mpiexec until one of them ends.

        incoming: what mpiexec says; its end ends the rank. Raises ClusterError if another job has the node
        and the order does not share it, UsageError if the shard is not here, ResourceError if the rank
        cannot be started.
        """
        async with self._admitted(order) as run:
            directory = self._prepared(order)
            environment = _environment(directory, device)
            run.proxy = proxy = _Proxy(directory, order.proxy_id, environment)
            try:
                code = await proxy.run(incoming, send)
            finally:
                await asyncio.shield(proxy.end())
                files = _files_in(directory)
                shutil.rmtree(directory, ignore_errors=True)
            return RankReport(code, files)

    @contextlib.asynccontextmanager
    async def _admitted(self, order: RankOrder) -> AsyncIterator[_Run]:
        """Run the block once earlier ranks of the order's job, and of jobs that are over, have ended."""
        self._check_open()
        job_id = order.owner.id
        over = {job_id, *order.ended}
        others = [
            run.owner
            for run in self._runs.values()
            if run.owner.id not in over and not (order.shares or run.shares)
        ]
        if others:
            raise busy_error({socket.gethostname(): others})
        before = [run.task for one in over if (run := self._runs.pop(one, None))]
        task = asyncio.current_task()
        assert task is not None, "within a coroutine"
        own = _Run(order.owner, order.shares, order.job.threads[order.rank], task)
        self._runs[job_id] = own
        try:
            for earlier in before:
                earlier.cancel()
            if before:
                await asyncio.wait(before, timeout=2 * END_S)
            yield own
        finally:
            if self._runs.get(job_id) is own:
                del self._runs[job_id]

    def _prepared(self, order: RankOrder) -> Path:
        """Make a directory for the run, with the job and the script that starts the rank.

        A shell reads the script, so the disk may be one that no program starts from (`noexec`).
        """
        make_room(1)
        path = str(self._store.use(order.shard))
        order.job.shards = [path] * len(order.job.shards)
        order.job.saved_directory = str(self._saved)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            directory = Path(tempfile.mkdtemp(prefix=f"{order.owner.id[:8]}-", dir=self._directory))
            job_file, note = directory / "job.json", f"rank{order.rank}.exit"
            job_file.write_bytes(msgspec.json.encode(order.job))
            words = [sys.executable, "-m", "dure.engine.ranks.rank", str(job_file)]
            program = ["sh", "-c", GUARD, str(directory / note), *words]
            (directory / RANK_SCRIPT).write_text(f"exec {shlex.join(program)}\n")
        except OSError as error:
            raise ResourceError(f"{self._directory} cannot be written: {error.strerror}") from error
        return directory


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
            if connected.done():
                connected.result()[1].close()

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

    @property
    def pid(self) -> int:
        """The proxy's process; 0 until it runs."""
        return self._process.pid if self._process else 0

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
            **gpu_environment(os.environ),
            "PATH": f"{directory}:/usr/bin:/bin",
            "TMPDIR": str(directory),  # what hydra leaves there goes with the next run
            **network_environment(device),
            **priority_environment(),
        }
    )


def _files_in(directory: Path) -> dict[str, str]:
    return {
        path.name: path.read_text(errors="replace")[-4096:]
        for pattern in ("rank*.error", "rank*.exit", "rank*.words")
        for path in directory.glob(pattern)
    }
