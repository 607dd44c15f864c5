"""The engine as a server sees it: a process of its own, watched, and started again when it dies.

Knows the worker's life, and every request that runs with its tokens so far: a new worker takes these up
where the old one stopped, so an answer pauses and goes on. Refuses to know HTTP and text.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import psutil

from dure.engine.environment import with_huge_pages
from dure.errors import (
    BusyError,
    DureError,
    EngineError,
    NotReadyError,
    ResourceError,
    UsageError,
    context_error,
    revived,
)
from dure.generate.request import (
    Done,
    Embedded,
    EngineStats,
    Event,
    Failed,
    ModelInfo,
    PrefillProgress,
    Request,
    Timings,
    Token,
    check_tokens,
)
from dure.worker import protocol as msg
from dure.worker.lifecycle import Happening, Lifecycle, State

__all__ = ["EngineClient"]

MOST_DEATHS = 3  # of the engine, before a request that was there each time is given up
FORGIVEN_S = 60.0  # an engine that answered so long did not die of its requests
PAUSES_S = (0.0, 0.0, 1.0, 5.0, 15.0, 60.0)  # before the next start, after so many failed ones
HOPELESS, HOPELESS_CLUSTER = 3, 8  # failed starts in a row; nodes and their cables may come back
STOP_S = 10.0
_PREFIX = "dure-engine-"
_FRAME = struct.Struct("!i")  # as multiprocessing.connection has it
_LONG_FRAME = struct.Struct("!Q")


@dataclass
class _Pending:
    """A request that has not ended, and what was told of it."""

    request: Request
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    tokens: list[int] = field(default_factory=list)
    admitted: bool = False
    cancelled: bool = False
    deaths: int = 0


class _Answer:
    """The events of one request; see `dure.serve.engine.Answer`."""

    def __init__(self, pending: _Pending, cancel: Callable[[str], None]) -> None:
        self._pending, self._cancel = pending, cancel

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self._pending.events.get()
            yield event
            if isinstance(event, Done | Failed | Embedded):
                return

    def cancel(self) -> None:
        """End the request."""
        self._cancel(self._pending.request.id)


class EngineClient:
    """Starts and keeps an engine; see `dure.serve.engine.Engine`.

    max_waiting: requests beyond those that run, before BusyError.
    warn: is told what is right but slower than need be, and of every restart.
    """

    def __init__(
        self,
        options: msg.EngineOptions,
        *,
        max_waiting: int = 64,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._options, self._max_waiting, self._warn = options, max_waiting, warn
        self._lifecycle = Lifecycle()
        self.progress, self.doing, self.reason = 0.0, "starting", ""
        self.stats = EngineStats()
        self.restarts = 0
        self._failures = 0  # to start, in a row
        self._ended, self._silent_s = "", 0.0
        self._heard = self._ready_since = (
            0.0  # when an answer went on, and when the model was there
        )
        self._info: ModelInfo | None = None
        self._pending: dict[str, _Pending] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._first: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._error: DureError | None = None

    # ------------------------------------------------------------ what a server asks

    @property
    def state(self) -> Literal["loading", "ready", "restarting", "failed", "stopped"]:
        """What the engine is doing, as a client of the API sees it."""
        match self._lifecycle.state:
            case State.READY:
                return "ready"
            case State.STOPPED:
                return "stopped"
            case State.FAILED:
                return "failed"
        if self._is_hopeless():
            return "failed"
        return "loading" if self._info is None else "restarting"

    def _is_hopeless(self) -> bool:
        return self._failures >= (HOPELESS_CLUSTER if self._options.cluster else HOPELESS)

    @property
    def info(self) -> ModelInfo:
        """The model that runs. Raises NotReadyError before it has been loaded once."""
        if self._info is None:
            raise NotReadyError(
                "the model is being loaded: try again in a moment", progress=self.progress
            )
        return self._info

    @property
    def pid(self) -> int | None:
        """The engine's process, while it runs."""
        return self._process.pid if self._process else None

    def submit(self, request: Request) -> _Answer:
        """Begin a request; see `dure.serve.engine.Engine.submit`."""
        self._check(request)
        if request.sampling.seed is None:  # a replay must draw the same numbers
            seeded = msgspec.structs.replace(request.sampling, seed=secrets.randbits(63))
            request = msgspec.structs.replace(request, sampling=seeded)
        try:
            data = msg.encode(msg.Submit(request))
        except (UnicodeEncodeError, OverflowError) as error:
            raise UsageError(f"the request cannot be sent to the engine: {error}") from None
        pending = _Pending(request)
        self._pending[request.id] = pending
        if self.state == "ready":
            self._send_bytes(data)
        return _Answer(pending, self._cancel)

    def _check(self, request: Request) -> None:
        info = self.info
        if self._stopping:
            raise NotReadyError("the server is stopping: try another one, or later")
        if self.state == "failed":
            raise EngineError(f"the engine does not run: {self.reason}")
        if request.id in self._pending:
            raise UsageError(f"request {request.id} runs already: give each its own id")
        check_tokens(request, info.n_vocab)
        n = len(request.prompt)
        if n >= info.n_ctx + self._options.embedding:
            raise context_error(n, info.n_ctx)
        if len(self._pending) >= info.n_sequences + self._max_waiting:
            raise BusyError(
                f"{len(self._pending)} requests run or wait already: try again in a moment"
            )

    async def embed(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """A pooled embedding of every input's tokens; see `dure.serve.engine.Engine.embed`."""
        answers: list[_Answer] = []
        try:
            for tokens in inputs:
                answers.append(self.submit(_embedding_of(tokens)))
            return [await _embedding(answer) for answer in answers]
        finally:
            for answer in answers:
                answer.cancel()

    def _cancel(self, request_id: str) -> None:
        pending = self._pending.get(request_id)
        if pending is None:
            return
        pending.cancelled = True
        if self.state == "ready":
            self._send(msg.Cancel(request_id))
        else:
            self._end_cancelled()

    def _end_cancelled(self) -> None:
        """End what was cancelled, while no worker is there that could."""
        for pending in [p for p in self._pending.values() if p.cancelled]:
            n = len(pending.request.prompt)
            timings = Timings(prompt_tokens=n, tokens=len(pending.tokens))
            self._deliver(Done(pending.request.id, "cancelled", timings))

    # ------------------------------------------------------------ its life

    def start(self) -> None:
        """Begin to load the model; `ready` tells when it is there."""
        self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(self._tell_bug)

    async def ready(self) -> None:
        """Wait until the model has been loaded once. Raises the error that prevents it."""
        assert self._first is not None, "start comes first"
        await asyncio.shield(self._first)

    async def close(self) -> None:
        """End the engine; what still runs is cancelled."""
        loading, self._stopping = self.state != "ready", True
        self._lifecycle.on(Happening.STOPS)
        self._send(msg.Stop())
        if self._process is not None:
            if loading and self._process.returncode is None:
                self._process.terminate()  # it does not listen yet
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_S)
            if self._process.returncode is None:
                self._process.kill()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        stopping = "the server is stopping: try another one, or later"
        if self._first is not None and not self._first.done():
            self._end_first(NotReadyError(stopping))
        self._fail_all(NotReadyError(stopping))

    async def _live(self) -> None:
        while True:
            was_ready = await self._try_worker()
            if self._stopping:
                return
            self._lifecycle.on(Happening.LOST)
            if self._info is None:  # a user's mistake, which stays one
                self._give_up_first()
                return
            self._failures = 0 if was_ready else self._failures + 1
            self.restarts += 1
            self._ended, self.doing, self.progress = self.reason, "the engine starts again", 0.0
            self._silent_s = time.monotonic() - self._heard if was_ready and self._pending else 0.0
            self._warn(f"the engine ended ({self.reason}); it is started again")
            self._end_cancelled()
            self._count_deaths(was_ready)
            if self._is_hopeless():
                self._lifecycle.on(Happening.GIVES_UP)
                self._fail_all(EngineError(f"the engine does not start: {self.reason}"))
            await asyncio.sleep(PAUSES_S[min(self._failures, len(PAUSES_S) - 1)])
            if self._stopping:
                return
            self._lifecycle.on(Happening.RESTARTS)

    def _tell_bug(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for ever where there is a bug here; `close` raises it."""
        if task.cancelled() or (bug := task.exception()) is None:
            return
        self._lifecycle.state, self.reason = State.FAILED, f"{type(bug).__name__}: {bug}"
        if self._first is not None and not self._first.done():
            self._end_first(EngineError(self.reason))
        self._fail_all(EngineError(self.reason))

    def _give_up_first(self) -> None:
        self._lifecycle.on(Happening.GIVES_UP)
        self._end_first(self._error or EngineError(self.reason))

    def _end_first(self, error: DureError) -> None:
        assert self._first is not None, "start made it"
        self._first.set_exception(error)
        self._first.exception()  # nobody may ask for it

    async def _try_worker(self) -> bool:
        """One worker; where the system could not even start it, it was not ready."""
        try:
            return await self._run_worker()
        except OSError as error:
            self.reason = f"the engine cannot be started: {error}"
            self._error = ResourceError(self.reason)
            return False

    async def _run_worker(self) -> bool:
        """One worker, from its start to its end; whether it was ready in between."""
        self._error, self.reason = None, "it gave no reason"
        _remove_left_behind(Path(tempfile.gettempdir()))
        directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        connected = asyncio.get_running_loop().create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not connected.done():
                connected.set_result((reader, writer))

        server: asyncio.Server | None = None
        try:
            path = directory / "engine.sock"
            server = await asyncio.start_unix_server(accept, path)
            with (directory / "log").open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "dure.worker.process", str(path)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=with_huge_pages(os.environ),
                    start_new_session=True,  # a terminal's Ctrl-C is for us alone
                )
            return await self._follow(self._process, connected, directory / "log")
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
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]],
        log: Path,
    ) -> bool:
        ended = asyncio.create_task(process.wait())
        either: set[asyncio.Future[Any]] = {ended, connected}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        was_ready = False
        if connected.done():
            reader, self._writer = connected.result()
            self._send(msg.Start(self._options_now()))
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    message = await _receive(reader)
                    was_ready = was_ready or isinstance(message, msg.Ready)
                    self._take(message)
        self._writer = None
        await asyncio.wait({ended}, timeout=STOP_S)  # one that does not end is killed
        ended.cancel()
        if self._error is None:
            self.reason = _last_words(process.returncode, log)
        return was_ready

    def _options_now(self) -> msg.EngineOptions:
        """A context that was promised is kept, also where fewer machines are left."""
        options = self._options
        ctx = self._info.n_ctx if self._info and options.cluster else options.ctx
        return msgspec.structs.replace(
            options, ctx=ctx, ended=self._ended, silent_s=round(self._silent_s, 2)
        )

    async def _reap(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._writer = None

    # ------------------------------------------------------------ what the worker says

    def _take(self, message: object) -> None:
        match message:
            case msg.Events(events):
                self._heard = time.monotonic()
                for event in events:
                    self._deliver(event)
            case msg.Stats(stats):
                self.stats = stats
            case msg.Loading(what, fraction):
                self.doing, self.progress = what, fraction
            case msg.Happened(happening):
                self._lifecycle.on(Happening(happening))
            case msg.Warned(text, is_news):
                if is_news or not self.restarts:
                    self._warn(text)
            case msg.Ready(info):
                self._begin(info)
            case msg.Fatal(record):
                self._error, self.reason = revived(record), record.message

    def _begin(self, info: ModelInfo) -> None:
        if self._stopping:
            return
        if self.restarts:
            self._warn("the engine is ready again")
        self._lifecycle.on(Happening.LOADED)
        self._info, self.progress, self.doing = info, 1.0, ""
        self._heard = self._ready_since = time.monotonic()
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        for pending in self._pending.values():
            self._send(
                msg.Submit(msgspec.structs.replace(pending.request, answered=pending.tokens))
            )

    def _deliver(self, event: Event) -> None:
        pending = self._pending.get(event.id)
        if pending is None:
            return
        pending.admitted = True
        if isinstance(event, PrefillProgress) and pending.deaths:
            return  # the prompt was told of already
        if isinstance(event, Token):
            pending.tokens.append(event.token)
        elif not isinstance(event, PrefillProgress):
            del self._pending[event.id]
        pending.events.put_nowait(event)

    def _count_deaths(self, was_ready: bool) -> None:
        """Hold a death against the requests that ran; where none did, one kills before it is told of."""
        pendings = list(self._pending.values())
        if was_ready and time.monotonic() - self._ready_since > FORGIVEN_S:
            for pending in pendings:
                pending.deaths = 0
        none_ran = was_ready and not any(pending.admitted for pending in pendings)
        for pending in pendings:
            pending.deaths += pending.admitted or none_ran
            pending.admitted = False
            if pending.deaths >= MOST_DEATHS:
                self._deliver(
                    Failed(
                        pending.request.id,
                        EngineError(
                            f"the engine died {pending.deaths} times while it answered this request: "
                            f"{self.reason}"
                        ).record(),
                    )
                )

    def _fail_all(self, error: DureError) -> None:
        for request_id in list(self._pending):
            self._deliver(Failed(request_id, error.record()))

    def _send(self, message: object) -> None:
        self._send_bytes(msg.encode(message))

    def _send_bytes(self, data: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_FRAME.pack(len(data)) + data)


async def _receive(reader: asyncio.StreamReader) -> object:
    (size,) = _FRAME.unpack(await reader.readexactly(_FRAME.size))
    if size == -1:
        (size,) = _LONG_FRAME.unpack(await reader.readexactly(_LONG_FRAME.size))
    return msg.decode(await reader.readexactly(size), msg.FromWorker)


def _remove_left_behind(directory: Path) -> None:
    """Delete what processes left there that were killed."""
    for path in directory.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _embedding_of(tokens: Sequence[int]) -> Request:
    return Request(
        id=f"embed-{secrets.token_hex(8)}", prompt=list(tokens), embed=True, cache_prompt=False
    )


async def _embedding(answer: _Answer) -> list[float]:
    async for event in answer:
        match event:
            case Embedded():
                return [float(x) for x in np.frombuffer(event.values, np.float32)]
            case Failed():
                raise revived(event.error)
            case Done():
                break
    raise EngineError("the embedding was cancelled")


def _last_words(code: int | None, log: Path) -> str:
    """Why a process ended, from its exit code and the last line that it wrote."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"{cause}, {lines[-1].strip()[:200]}" if lines else cause
