"""`dure serve`: a model behind the OpenAI API, until it is told to stop."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dure.cli.terminal.console import errors, loading_bar, printable
from dure.cli.terminal.model_argument import resolve_draft, resolve_model
from dure.cli.terminal.parameters import (
    Ctx,
    Guess,
    MinP,
    Mlock,
    Model,
    OnCluster,
    OnInterface,
    OnNodes,
    Pin,
    Pull,
    Ranks,
    Seed,
    Shares,
    Sync,
    Temperature,
    Threads,
    TopK,
    TopP,
    sampling_of,
)
from dure.engine.compute.allreduce import Wire
from dure.errors import ResourceError, UsageError
from dure.generate.speculative.proposer import Draft
from dure.hardware.probe import probe
from dure.http.guards.keys import keys_of_environment
from dure.http.settings import LogFormat, ServerSettings, check_binding
from dure.model.gguf import open_gguf
from dure.worker.protocol import EngineOptions

if TYPE_CHECKING:
    from dure.serve.assembly import ServerPlan

__all__ = ["serve"]

STORE_PART = 0.1  # of the free memory, for prefixes that have no room in the KV cache
MB = 1_000_000
CHECKPOINT_S = 2.0  # of computing that may be lost with a node


def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen on; unix:PATH for a socket.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="Port; 0 takes a free one.")] = 8080,
    parallel: Annotated[
        int, typer.Option(help="Answers at once; each has a context of its own.")
    ] = 4,
    ranks: Ranks = None,
    cluster: OnCluster = False,
    nodes: OnNodes = None,
    interface: OnInterface = None,
    draft: Guess = Draft.LOOKUP,
    grace: Annotated[
        float,
        typer.Option(help="Seconds to wait for a node that is lost, before going on without it."),
    ] = 60.0,
    shares: Shares = None,
    threads: Threads = None,
    ctx: Ctx = None,
    sync: Sync = Wire.Q8,
    mlock: Mlock = False,
    pin: Pin = False,
    pull: Pull = False,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of the model for clients; may be given again.", show_default="file"
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File of API keys, `name:key` a line; DURE_API_KEYS holds them too."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let everyone on the network in, without a key.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Web page that may call, as https://chat.example; may be given again."),
    ] = None,
    queue: Annotated[
        int, typer.Option(help="Requests that may wait; more are told to come back later.")
    ] = 64,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="Of each key.", show_default="unlimited")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(help="Of each key.", show_default="unlimited")
    ] = None,
    max_prompt: Annotated[
        int | None, typer.Option(help="Longest prompt, in tokens.", show_default="the context")
    ] = None,
    max_body: Annotated[int, typer.Option(help="Largest request, in MB.")] = 16,
    deadline: Annotated[
        float, typer.Option(help="Seconds that running answers get when the server is stopped.")
    ] = 30.0,
    slow_client: Annotated[
        float, typer.Option(help="Seconds that a client may leave its answer unread.")
    ] = 30.0,
    idle: Annotated[float, typer.Option(help="Seconds that a silent connection is kept.")] = 75.0,
    keep_alive: Annotated[
        float, typer.Option(help="Seconds of silence after which a stream gets a comment.")
    ] = 5.0,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Keep computed prompts here, over restarts.", show_default="in memory"),
    ] = None,
    cache_size: Annotated[
        int | None,
        typer.Option(
            help="MB for computed prompts beside the KV cache; 0 keeps none.",
            show_default="a tenth of the free memory",
        ),
    ] = None,
    embedding_model: Annotated[
        str | None,
        typer.Option(help="Another model, for embeddings.", show_default="the model itself"),
    ] = None,
    pooling: Annotated[
        Literal["mean", "cls", "last"] | None,
        typer.Option(help="How embeddings are pooled.", show_default="as the model was made"),
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file instead of the model's own chat template.")
    ] = None,
    temp: Temperature = 0.8,
    top_p: TopP = 0.95,
    top_k: TopK = 40,
    min_p: MinP = 0.05,
    seed: Seed = None,
    slots: Annotated[
        bool, typer.Option(help="Tell at /slots what runs, to those who have a key.")
    ] = True,
    log_format: Annotated[LogFormat, typer.Option(help="Of the access log.")] = "text",
    log_file: Annotated[
        Path | None, typer.Option(help="Access log.", show_default="standard error")
    ] = None,
) -> None:
    """Serve a model through the OpenAI API (also Anthropic's and Ollama's), on one rank or several.

    Sampling options are what holds where a request says nothing.

    Example: dure serve models/dure-demo.gguf --ranks 2
    """
    settings = ServerSettings(
        host=host,
        port=port,
        aliases=tuple(alias or ()),
        api_keys=keys_of_environment(),
        api_key_file=api_key_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        cors_origins=tuple(cors_origin or ()),
        max_body_bytes=max_body * MB,
        max_prompt_tokens=max_prompt,
        max_waiting=queue,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        deadline_s=deadline,
        slow_client_timeout_s=slow_client,
        idle_timeout_s=idle,
        keep_alive_comment_s=keep_alive,
        insecure=insecure,
        log_format=log_format,
        log_file=log_file,
    )
    check_binding(settings)
    path = resolve_model(model, may_pull=True, pull_now=pull)
    embedder = embedding_model and resolve_model(embedding_model, may_pull=True, pull_now=pull)
    draft = resolve_draft(draft, pull_now=pull)
    with open_gguf(path):
        pass  # what is no model is told at once
    from dure.serve.assembly import ServerPlan

    plan = ServerPlan(
        engine=EngineOptions(
            model=str(path.absolute()),
            ranks=ranks,
            cluster=cluster,
            nodes=nodes,
            interface=interface,
            grace_s=max(0.1, grace),
            shares=shares,
            threads=threads,
            ctx=ctx,
            parallel=parallel,
            sync=sync.value,
            pooling="" if embedder else pooling or "",
            store=str(cache_dir.absolute()) if cache_dir else "",
            store_bytes=_store_bytes(cache_size),
            persistent=cache_dir is not None,
            draft=draft,
            mlock=mlock,
            pin=pin,
            checkpoint_s=CHECKPOINT_S if cluster else 0.0,
        ),
        settings=settings,
        sampling=sampling_of(temp, top_p, top_k, min_p, seed),
        embedding=EngineOptions(
            model=str(Path(embedder).absolute()),
            threads=threads,
            embedding=True,
            pooling=pooling or "",
        )
        if embedder
        else None,
        chat_template=_text_of(chat_template),
        slots=slots,
    )
    raise typer.Exit(_run(plan))


def _run(plan: ServerPlan) -> int:
    from dure.serve.assembly import run_server

    with ExitStack() as while_loading:
        bar = while_loading.enter_context(loading_bar(f"loading {printable(plan.name)}"))

        def ready() -> None:
            while_loading.close()
            _say("ready: the API is described at /docs; Ctrl-C stops")

        return run_server(
            plan,
            announce=lambda url: _say(f"{plan.name} at {url} (loading)"),
            ready=ready,
            stopping=lambda: _say(
                "stops when what it is answering is done; Ctrl-C ends it at once"
            ),
            warn=_say,
            progress=lambda _what, fraction: bar(fraction),
        )


def _say(text: str) -> None:
    errors.print(printable(text), markup=False, soft_wrap=True)


def _store_bytes(cache_size: int | None) -> int:
    if cache_size is None:
        return int(probe().available_bytes * STORE_PART)
    if cache_size < 0:
        raise UsageError(f"--cache-size {cache_size}: give MB, or 0 to keep none")
    return cache_size * MB


def _text_of(path: Path | None) -> str | None:
    try:
        return path.read_text() if path else None
    except OSError as error:
        raise ResourceError(f"--chat-template {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"--chat-template {path} is no text: name a template in UTF-8") from None
