"""Puts a whole server together and runs it: the engine's process, the API, and its guards.

Knows which part needs which. Refuses to know where settings come from, and how a person is informed.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from dure.chat.reading import TextTools
from dure.chat.thinking import Think
from dure.generate.request import Sampling
from dure.http.access_log import RequestRecord
from dure.http.server import Served, serve
from dure.http.settings import ServerSettings
from dure.http.sse import Silence
from dure.isolation import Isolation
from dure.model.gguf import open_gguf
from dure.model.vocabulary import Vocabulary
from dure.places import page_directory
from dure.serve import anthropic, ollama, responses
from dure.serve.adapter_loading import AdapterLoading
from dure.serve.adapters import ServedAdapters
from dure.serve.app import build_app
from dure.serve.cluster_watch import ClusterWatch
from dure.serve.engine import Engine
from dure.serve.engine_lifespan import EngineLifespan
from dure.serve.measured import MeasuredEngine
from dure.serve.metrics import Metrics
from dure.serve.page.journal import Journal
from dure.serve.page.kept_points import KeptPoints
from dure.serve.page.sentences import SaidSentence, said
from dure.serve.page.watch import PageWatch
from dure.serve.prefix_directory import prefix_directory
from dure.serve.served_model import ServedModel
from dure.serve.state import ServerState
from dure.worker.protocol import EngineOptions
from dure.worker.supervisor import READY_AGAIN, EngineSupervisor

__all__ = ["ServerPlan", "run_server"]

_Words: TypeAlias = tuple[Vocabulary, Isolation[TextTools]]


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """What a server is made of.

    embedding: a model of its own for embeddings; None: the model itself makes them.
    chat_template: replaces the model's own. slots, think, strict, shows_prompts: see ServerState.
    lora_directory: whose adapters clients may load; None: none.
    """

    engine: EngineOptions
    settings: ServerSettings
    sampling: Sampling = field(default_factory=Sampling)
    embedding: EngineOptions | None = None
    chat_template: str | None = None
    slots: bool = True
    think: Think = "auto"
    strict: bool = False
    shows_prompts: bool = False
    lora_directory: Path | None = None

    @property
    def name(self) -> str:
        """The model's name for clients."""
        aliases = self.settings.aliases
        return aliases[0] if aliases else _name_of(Path(self.engine.model))


def run_server(
    plan: ServerPlan,
    *,
    front: Callable[[Served], AbstractContextManager[Served]] = nullcontext,
    announce: Callable[[str], None] = lambda _: None,
    ready: Callable[[str], None] = lambda _transport: None,
    stopping: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, float], None] = lambda _what, _fraction: None,
) -> int:
    """Serve until a signal comes, and return the exit code.

    front: what stands before the model's API, as a router. announce: gets the URL once it answers, while
    the model may still be loading; ready: called when the model is loaded, with how vectors get from rank
    to rank ("" with one rank); stopping: when the server begins to end; warn: gets what a person should
    know; progress: what is being loaded, and how far (0 to 1). Raises the DureError that prevents it.
    """
    with (
        _words(Path(plan.engine.model), plan.chat_template) as words,
        _embedding_words(plan) as embedding_words,
        prefix_directory(plan.engine) as options,
        _cluster_watch(options) as watch,
    ):
        journal = Journal()
        noted = _noting(warn, journal)
        engine = EngineSupervisor(options, max_waiting=plan.settings.max_waiting, warn=noted)
        embedding = _embedding_engine(plan, noted)
        metrics = Metrics(engine, plan.name, watch.reports)
        page = PageWatch(
            engine,
            plan.name,
            watch.reports,
            journal,
            has_nodes=options.run.cluster,
            kept=_kept_points(plan),
        )
        measured = MeasuredEngine(
            engine, metrics, plan.name, plan.settings.max_prompt_tokens, page.requests
        )
        adapters = ServedAdapters(plan.engine.run.lora)
        model = ServedModel(measured, *words, plan.name, plan.settings.aliases[1:], adapters)
        state = _state(plan, model, _embedding_model(plan, embedding, embedding_words))
        life = EngineLifespan(
            [engine, *([embedding] if embedding else [])],
            lambda: _loaded(ready, engine.info.transport, journal),
            progress,
        )
        app = build_app(state, [responses.router(), anthropic.router(), ollama.router()], page)
        figures = _Journaled(metrics, journal)
        with front(Served(app, figures, _around(life, page))) as served:
            code = serve(
                served,
                plan.settings,
                model=plan.name,
                announce=announce,
                stopping=lambda: _stopping(page, stopping if life.error is None else None),
            )
    if life.error is not None:
        raise life.error
    return code


def _kept_points(plan: ServerPlan) -> KeptPoints | None:
    """Return where the last day is kept; nowhere if the port is any, as the next server has another."""
    host, port = plan.settings.host, plan.settings.port
    if host.startswith("unix:"):
        return KeptPoints(page_directory(), plan.name, host)
    return KeptPoints(page_directory(), plan.name, f"{host}:{port}") if port else None


class _Journaled:
    """The figures of a server whose journal tells where requests went."""

    def __init__(self, metrics: Metrics, journal: Journal) -> None:
        self._metrics, self._journal = metrics, journal

    def observe_http(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        self._metrics.observe_http(record)
        self._journal.add_routed(record)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return self._metrics.text()


def _stopping(page: PageWatch, tell: Callable[[], None] | None) -> None:
    page.is_stopping = True
    if tell is not None:
        tell()


def _loaded(ready: Callable[[str], None], transport: str, journal: Journal) -> None:
    journal.add("engine", "info", said("model_loaded", {}))
    ready(transport)


def _noting(warn: Callable[[str], None], journal: Journal) -> Callable[[str], None]:
    """Return what tells a person, and the page."""

    def noted(text: str) -> None:
        journal.add("engine", "info" if text == READY_AGAIN else "warning", SaidSentence(text))
        warn(text)

    return noted


@asynccontextmanager
async def _around(life: EngineLifespan, page: PageWatch) -> AsyncIterator[None]:
    async with life.around(), page.around():
        yield


def _state(plan: ServerPlan, model: ServedModel, embedding: ServedModel | None) -> ServerState:
    return ServerState(
        model=model,
        embedding=embedding,
        sampling=plan.sampling,
        silence=Silence(plan.settings.keep_alive_comment_s, plan.settings.keep_alive_event_s),
        slots=plan.slots,
        think=plan.think,
        strict=plan.strict,
        shows_prompts=plan.shows_prompts,
        adapter_loading=AdapterLoading(plan.lora_directory),
        fingerprint=f"b-{_fingerprint(plan)}",
    )


def _embedding_engine(plan: ServerPlan, warn: Callable[[str], None]) -> EngineSupervisor | None:
    if plan.embedding is None:
        return None
    return EngineSupervisor(plan.embedding, max_waiting=plan.settings.max_waiting, warn=warn)


def _embedding_model(
    plan: ServerPlan, engine: Engine | None, words: _Words | None
) -> ServedModel | None:
    if plan.embedding is None or engine is None or words is None:
        return None
    return ServedModel(engine, *words, _name_of(Path(plan.embedding.model)))


@contextmanager
def _cluster_watch(options: EngineOptions) -> Iterator[ClusterWatch]:
    watch = ClusterWatch(has_nodes=options.run.cluster)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


@contextmanager
def _words(path: Path, template: str | None = None) -> Iterator[_Words]:
    """Load a model's vocabulary, and fork the processes that read what clients write with it."""
    with open_gguf(path) as gguf:
        vocabulary = Vocabulary(gguf)
    with Isolation(TextTools.of(vocabulary, template)) as texts:
        yield vocabulary, texts


@contextmanager
def _embedding_words(plan: ServerPlan) -> Iterator[_Words | None]:
    if plan.embedding is None:
        yield None
        return
    with _words(Path(plan.embedding.model)) as words:
        yield words


def _name_of(path: Path) -> str:
    """Return a file's name without its ending, and without the part's number if it is split."""
    return path.name.removesuffix(".gguf").partition("-00001-of-")[0]


def _fingerprint(plan: ServerPlan) -> str:
    """Return what changes if answers to the same request and seed may: the model and its cut."""
    with open_gguf(Path(plan.engine.model)) as gguf:
        run = plan.engine.run
        parts = f"{gguf.fingerprint} {run.ranks} {run.shares} {run.wire.value}"
    return hashlib.blake2b(parts.encode(), digest_size=4).hexdigest()
