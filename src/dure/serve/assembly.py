"""A whole server: the engine's process, the API, and what guards it, put together and run.

Knows which part needs which. Refuses to know where settings come from and how a person is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from dure.chat.format import ChatFormatter
from dure.errors import DureError
from dure.generate.request import Sampling
from dure.http.server import serve
from dure.http.settings import ServerSettings
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from dure.serve import anthropic, ollama, responses
from dure.serve.app import build_app
from dure.serve.cluster_watch import ClusterWatch
from dure.serve.measured import MeasuredEngine
from dure.serve.metrics import Metrics
from dure.serve.state import EmbeddingModel, ServerState
from dure.worker.protocol import EngineOptions
from dure.worker.supervisor import EngineSupervisor

__all__ = ["ServerPlan", "run_server"]

MEMORY = Path("/dev/shm")  # noqa: S108  # made private by mkdtemp
_STORE_PREFIX = "dure-prefixes-"


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """All that a server is to be.

    embedding: a model of its own for embeddings; None: the model itself makes them.
    chat_template: instead of the model's own. slots: whether /slots tells what runs.
    """

    engine: EngineOptions
    settings: ServerSettings
    sampling: Sampling = field(default_factory=Sampling)
    embedding: EngineOptions | None = None
    chat_template: str | None = None
    slots: bool = True

    @property
    def name(self) -> str:
        """The model's name for clients."""
        aliases = self.settings.aliases
        return aliases[0] if aliases else _name_of(Path(self.engine.model))


def run_server(
    plan: ServerPlan,
    *,
    announce: Callable[[str], None] = lambda _: None,
    ready: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, float], None] = lambda _what, _fraction: None,
) -> int:
    """Serve until a signal comes; the exit code.

    announce: gets the URL once it answers, while the model may still be loading; ready: is called
    when the model is there, stopping when it begins to end; warn: gets what a person should know;
    progress: what is being loaded, and how far (0 to 1). Raises the DureError that prevents it.
    """
    vocabulary = _vocabulary(Path(plan.engine.model))
    formatter = (
        ChatFormatter(vocabulary, default_template=plan.chat_template)
        if plan.chat_template or vocabulary.has_chat_template
        else None
    )
    with _store(plan.engine) as options:
        engine = EngineSupervisor(options, max_waiting=plan.settings.max_waiting, warn=warn)
        watch = ClusterWatch()
        if options.run.cluster:
            watch.start()
        metrics = Metrics(engine, plan.name, watch.reports)
        embedding = _embedding(plan, warn)
        state = ServerState(
            engine=MeasuredEngine(engine, metrics, plan.name, plan.settings.max_prompt_tokens),
            vocabulary=vocabulary,
            formatter=formatter,
            model=plan.name,
            aliases=plan.settings.aliases[1:],
            embedding=embedding and embedding[0],
            sampling=plan.sampling,
            keep_alive_s=plan.settings.keep_alive_comment_s,
            slots=plan.slots,
            fingerprint=f"b-{_fingerprint(plan)}",
        )
        app = build_app(state, [responses.router(), anthropic.router(), ollama.router()])
        life = _Life([engine, *([embedding[1]] if embedding else [])], ready, progress)
        code = serve(
            app,
            plan.settings,
            metrics,
            model=plan.name,
            around=life.around(),
            announce=announce,
            stopping=lambda: stopping() if life.error is None else None,
        )
    watch.stop()
    if life.error is not None:
        raise life.error
    return code


class _Life:
    """Starts the engines with the server, and ends the server where they cannot be started."""

    def __init__(
        self,
        engines: list[EngineSupervisor],
        ready: Callable[[], None],
        progress: Callable[[str, float], None],
    ) -> None:
        self._engines, self._ready, self._progress = engines, ready, progress
        self.error: DureError | None = None

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """From before the first request to after the last."""
        for engine in self._engines:
            engine.start()
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(*(engine.close() for engine in self._engines))

    async def _watch(self) -> None:
        loading = asyncio.gather(*(engine.ready() for engine in self._engines))
        try:
            while not loading.done():
                self._progress(self._engines[0].doing, self._engines[0].progress)
                await asyncio.wait([loading], timeout=0.1)
            await loading
        except DureError as error:
            self.error = error
            os.kill(os.getpid(), signal.SIGTERM)  # as if someone had stopped it: in good order
            return
        self._ready()


def _vocabulary(path: Path) -> Vocabulary:
    with open_gguf(path) as gguf:
        return Vocabulary(gguf)


def _embedding(
    plan: ServerPlan, warn: Callable[[str], None]
) -> tuple[EmbeddingModel, EngineSupervisor] | None:
    if plan.embedding is None:
        return None
    path = Path(plan.embedding.model)
    engine = EngineSupervisor(plan.embedding, max_waiting=plan.settings.max_waiting, warn=warn)
    return EmbeddingModel(engine, _vocabulary(path), _name_of(path)), engine


@contextmanager
def _store(options: EngineOptions) -> Iterator[EngineOptions]:
    """Where cached prefixes go that have no room in the KV cache: a directory, or else memory."""
    if options.store or not options.store_bytes:
        yield options
        return
    memory = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _remove_left_behind(memory)
    directory = tempfile.mkdtemp(prefix=f"{_STORE_PREFIX}{os.getpid()}-", dir=memory)
    try:
        yield msgspec.structs.replace(options, store=directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_left_behind(memory: Path) -> None:
    """Delete what servers left there that were killed."""
    for directory in memory.glob(f"{_STORE_PREFIX}*"):
        pid = directory.name.removeprefix(_STORE_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(directory, ignore_errors=True)


def _name_of(path: Path) -> str:
    """A file's name without its ending, and without the part's number where it is split."""
    return path.name.removesuffix(".gguf").partition("-00001-of-")[0]


def _fingerprint(plan: ServerPlan) -> str:
    """Changes where answers to the same request and seed may: with the model and how it is cut."""
    with open_gguf(Path(plan.engine.model)) as gguf:
        run = plan.engine.run
        what = f"{gguf.fingerprint} {run.ranks} {run.shares} {run.wire.value}"
    return hashlib.blake2b(what.encode(), digest_size=4).hexdigest()
