"""Runs the API as a real server over HTTP, in a thread of the tests, on a model or on a script.

`Served` serves a `ServerState`; `ScriptedEngine` replaces the engine and answers with a test's texts: the
API is tested, and only the model, which is expensive, is faked.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from fastapi import APIRouter

from dure.chat.reading import TextTools
from dure.deploy.options import RunOptions
from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.errors import DureError, context_error
from dure.generate.request import (
    Done,
    EngineStats,
    Event,
    Failed,
    FinishReason,
    ModelInfo,
    PrefillProgress,
    Request,
    Timings,
    Token,
)
from dure.http.guards.asgi import App, Message, Receive, Scope, Send
from dure.isolation import Isolation
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from dure.serve.app import build_app
from dure.serve.engine import ChangingAdapters, EngineState, StepWatching
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from dure.worker.protocol import EngineOptions
from dure.worker.supervisor import EngineSupervisor

DEMO_MODEL = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
WAIT_S = 60.0  # detects a hang; nothing is measured with it
N_CTX = 2048


@cache
def vocabulary() -> Vocabulary:
    """Return the demo model's vocabulary."""
    with open_gguf(DEMO_MODEL) as model:
        return Vocabulary(model)


@cache
def texts() -> Isolation[TextTools]:
    """Return what reads requests with the demo model's vocabulary and template."""
    return Isolation(TextTools.of(vocabulary()))


def state_of(engine: Any, aliases: tuple[str, ...] = (), **settings: Any) -> ServerState:
    """Return the state of a server with the demo model's vocabulary and templates."""
    words = vocabulary()
    model = ServedModel(engine, words, texts(), "dure-demo", aliases)
    return ServerState(model, **settings)


@contextlib.asynccontextmanager
async def _running(engine: EngineSupervisor) -> AsyncIterator[None]:
    engine.start()
    try:
        await engine.ready()
        yield
    finally:
        await engine.close()


class Served:
    """A server at `url` until `close`. engine: started and closed with it.

    answers: method, path and status of every request so far.
    """

    def __init__(
        self,
        state: ServerState,
        dialects: Sequence[APIRouter] = (),
        engine: EngineSupervisor | None = None,
    ) -> None:
        self.state = state
        self.answers: list[tuple[str, str, int]] = []
        app = _noting(build_app(state, dialects), self.answers)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
        self._server, self._engine = uvicorn.Server(config), engine
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, "the server has not started")
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    async def _run(self) -> None:
        around = _running(self._engine) if self._engine else contextlib.nullcontext()
        async with around:
            await self._server.serve()

    def close(self) -> None:
        """Stop at once."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(WAIT_S)


def _noting(app: App, answers: list[tuple[str, str, int]]) -> App:
    """Return the app; the status of its every answer is added to `answers`."""

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answers.append((scope["method"], scope["path"], message["status"]))
            await send(message)

        await app(scope, receive, sending)

    return noting


@contextlib.contextmanager
def served_model() -> Iterator[Served]:
    """Run a server of the demo model on a real engine."""
    engine = engine_of(DEMO_MODEL)
    with served_engine(state_of(engine), engine) as server:
        yield server


def engine_of(model: Path) -> EngineSupervisor:
    """Return a real engine, not yet started."""
    return EngineSupervisor(
        EngineOptions(
            model=str(model), run=RunOptions(ranks=1, threads=1, ctx=N_CTX, n_sequences=4)
        )
    )


@contextlib.contextmanager
def served_engine(state: ServerState, engine: EngineSupervisor) -> Iterator[Served]:
    """Run a server of an engine while the block runs."""
    server = Served(state, engine=engine)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def served(state: ServerState, dialects: Sequence[APIRouter] = ()) -> Iterator[Served]:
    """Run a server while the block runs."""
    server = Served(state, dialects)
    try:
        yield server
    finally:
        server.close()


def wait_until(condition: Any, complaint: str) -> None:
    """Wait for what another thread does; fail with the complaint after a while."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.01)


@dataclass(frozen=True)
class Script:
    """One answer. text: what the model writes. pieces: instead of it, its tokens.

    end: how it ends, if max_tokens does not end it sooner. refusal: raised when it is submitted.
    hasty: all of it is generated before anyone can cancel it.
    failure: a Failed event with this error replaces the end. hold: wait for this before every token but
    the first. silent: wait for `hold` before the first too.
    """

    text: str = "Hello there."
    tokens: tuple[int, ...] | None = None
    end: FinishReason = "stop"
    refusal: DureError | None = None
    failure: DureError | None = None
    hold: threading.Event | None = None
    silent: bool = False
    cached: int = 0
    hasty: bool = False


class ScriptedAnswer:
    """The events of one script."""

    def __init__(self, engine: ScriptedEngine, request: Request, script: Script) -> None:
        self._engine, self._request, self._script = engine, request, script
        self._cancelled = False
        self._ended = False

    def cancel(self) -> None:
        if not self._ended:
            self._cancelled = True
            self._engine.cancelled.add(self._request.id)

    async def __aiter__(self) -> AsyncIterator[Event]:
        request, script = self._request, self._script
        total = len(request.prompt)
        yield PrefillProgress(request.id, total, script.cached, script.cached, 0.0)
        if script.silent:
            await self._wait()
        yield PrefillProgress(request.id, total, script.cached, total, 0.01)
        n = 0
        reason: FinishReason = script.end
        for token in self._engine.tokens_of(script):
            if n and script.hold is not None:
                await self._wait()
            if self._cancelled and not script.hasty:
                break
            if request.max_tokens is not None and n >= request.max_tokens:
                reason = "length"
                break
            n += 1
            yield self._token(token)
        if script.failure is not None and not self._cancelled:
            self._ended = True
            yield Failed(request.id, script.failure.record())
            return
        self._ended = True
        timings = Timings(0.0, total, script.cached, 0.01, n, 0.02)
        yield Done(request.id, "cancelled" if self._cancelled else reason, timings)

    async def _wait(self) -> None:
        assert self._script.hold is not None
        while not (self._script.hold.is_set() or self._cancelled):
            await asyncio.sleep(0.005)

    def _token(self, token: int) -> Token:
        n = self._request.n_logprobs
        if n is None:
            return Token(self._request.id, token)
        others = [(token, -0.5), *((other, -3.0) for other in range(1000, 1000 + n))]
        return Token(self._request.id, token, -0.5, tuple(others[:n]))


@dataclass
class ScriptedEngine:
    """Answers with `scripts`, in order, and then with `default`; records its requests."""

    default: Script = Script()
    scripts: list[Script] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    state: EngineState = "ready"
    progress: float = 1.0
    doing: str = ""
    reason: str = ""
    restarts: int = 0
    stats: EngineStats = field(default_factory=EngineStats)
    info: ModelInfo = field(
        default_factory=lambda: ModelInfo(
            path=str(DEMO_MODEL),
            name="dure-demo",
            architecture="qwen3",
            n_ctx=N_CTX,
            n_ctx_train=N_CTX,
            n_vocab=vocabulary().n_tokens,
            n_embd=16,
            n_sequences=4,
            n_ranks=1,
            threads=(1,),
            weights_bytes=7_000_000,
            n_params=3_500_000,
            file_type="F16",
        )
    )

    def tokens_of(self, script: Script) -> Sequence[int]:
        """Return the tokens that a script's model generates."""
        if script.tokens is not None:
            return script.tokens
        return vocabulary().tokenize(script.text, special=True, add_bos=False)

    def submit(self, request: Request) -> ScriptedAnswer:
        self.requests.append(request)
        script = self.scripts.pop(0) if self.scripts else self.default
        if script.refusal is not None:
            raise script.refusal
        if len(request.prompt) >= self.info.n_ctx:
            raise context_error(len(request.prompt), self.info.n_ctx)
        return ScriptedAnswer(self, request, script)

    async def embed(
        self,
        inputs: Sequence[Sequence[int]],
        adapters: AdapterSet = NO_ADAPTERS,  # noqa: ARG002  # as the protocol
    ) -> list[list[float]]:
        return [[float(len(tokens) + n) for n in range(self.info.n_embd)] for tokens in inputs]

    @property
    def adapters(self) -> ChangingAdapters:
        raise AssertionError("it loads none")

    @property
    def steps(self) -> StepWatching:
        raise AssertionError("nobody watches it")

    def not_embedding(self) -> ScriptedEngine:
        """Return the same for a model that does not embed."""
        return replace(self, info=_without_embedding(self.info))


def _without_embedding(info: ModelInfo) -> ModelInfo:
    return msgspec.structs.replace(info, embeds=False)
