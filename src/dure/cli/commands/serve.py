"""`dure serve`: serves a model over HTTP until it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dure.cli.terminal.console import errors, loading_bar, printable
from dure.cli.terminal.model_argument import resolve_draft, resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import (
    CLUSTER,
    SERVER,
    DraftFrom,
    Model,
    Pull,
    Running,
    SamplingOptions,
    TemplateFile,
    Thinking,
)
from dure.cli.terminal.route_rules import OwnRulesFile, own_rules
from dure.cli.terminal.server_parameters import (
    Guarding,
    Listening,
    ModelFiles,
    Queueing,
    Serving,
)
from dure.deploy.options import RunOptions
from dure.deploy.start import check_start
from dure.generate.file_sampling import file_sampling
from dure.generate.speculative.proposer import Draft
from dure.http.settings import check_binding
from dure.library.running import cluster_job
from dure.model.gguf import open_gguf
from dure.places import route_directory
from dure.worker.protocol import EngineOptions

if TYPE_CHECKING:
    from dure.http.server import Served
    from dure.route.upstream import RouteRules
    from dure.serve.assembly import ServerPlan

__all__ = ["serve"]

_Front: TypeAlias = "Callable[[Served], AbstractContextManager[Served]]"
CHECKPOINT_S = 2.0  # of computing that may be lost with a node


@expanded
def serve(
    model: Model,
    *,
    listening: Listening,
    serving: Serving,
    running: Running,
    grace: Annotated[
        float,
        typer.Option(
            help="Seconds to wait for a lost node before going on without it.",
            rich_help_panel=CLUSTER,
        ),
    ] = 60.0,
    draft: DraftFrom = Draft.LOOKUP,
    pull: Pull = False,
    files: ModelFiles,
    template: TemplateFile,
    sampling: SamplingOptions,
    think: Thinking = "auto",
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Show how ranks exchange data, and every answer's prompt in `__verbose`.",
            rich_help_panel=SERVER,
        ),
    ] = False,
    rules: OwnRulesFile = None,
    guarding: Guarding,
    queueing: Queueing,
) -> None:
    """Serve a model through the OpenAI, Anthropic and Ollama APIs, on one rank or several.

    Sampling options are the defaults of requests; what is not given is as the model's file says.

    Example: dure serve models/dure-demo.gguf --ranks 2
    """
    sampling.check()
    route_by = own_rules(rules)
    settings = queueing.settings(guarding.settings(listening), serving)
    check_binding(settings)
    path = resolve_model(model, may_pull=True, pull_now=pull)
    embedder = files.embedding_model and resolve_model(
        files.embedding_model, may_pull=True, pull_now=pull
    )
    draft = resolve_draft(draft, pull_now=pull)
    options = running.options("serve", model, n_sequences=serving.parallel, grace_s=max(0.1, grace))
    with open_gguf(path) as header:
        check_start(header, options)  # what is refused is refused before an address is announced
        defaults = sampling.sampling(file_sampling(header))
    from dure.serve.assembly import ServerPlan

    plan = ServerPlan(
        engine=EngineOptions(
            model=str(path.absolute()),
            run=options,
            pooling="" if embedder else files.pooling or "",
            store=str(serving.cache_dir.absolute()) if serving.cache_dir else "",
            store_bytes=serving.store_bytes(),
            persistent=serving.cache_dir is not None,
            draft=draft,
            checkpoint_s=CHECKPOINT_S if options.cluster else 0.0,
        ),
        settings=settings,
        sampling=defaults,
        embedding=_embedding_engine(Path(embedder), running, files) if embedder else None,
        chat_template=template.template_text(),
        slots=serving.slots,
        think=think,
        strict=serving.strict,
        shows_prompts=verbose,
        lora_directory=files.lora_directory(),
    )
    with cluster_job(options):
        raise typer.Exit(_run(plan, _front(route_by)))


def _embedding_engine(model: Path, running: Running, files: ModelFiles) -> EngineOptions:
    return EngineOptions(
        model=str(model.absolute()),
        run=RunOptions(threads=running.threads),
        embedding=True,
        pooling=files.pooling or "",
    )


def _front(rules: RouteRules | None) -> _Front:
    """Return what stands before the model's API: a router, or nothing."""
    if rules is None:
        return nullcontext
    from dure.cli.terminal.route_pods import with_pods
    from dure.route.assembly import RouterPlan, routed

    priced, starters = with_pods(rules)
    return partial(routed, RouterPlan(rules=priced, directory=route_directory(), starters=starters))


def _run(plan: ServerPlan, front: _Front) -> int:
    from dure.serve.assembly import run_server

    with ExitStack() as while_loading:
        while_loading.enter_context(noted("load", plan.name))
        title = f"loading {printable(plan.name)}"
        bar = while_loading.enter_context(loading_bar(title, "loading"))

        def ready(transport: str) -> None:
            while_loading.close()
            how = f" (exchange: {transport})" if plan.shows_prompts and transport else ""
            _say(f"ready{how}: the API is described at /docs; Ctrl-C stops")

        def stopping() -> None:
            while_loading.close()
            _say("stopping when running answers are done; Ctrl-C stops at once")

        return run_server(
            plan,
            front=front,
            announce=lambda url: _say(f"{plan.name} at {url} (loading)"),
            ready=ready,
            stopping=stopping,
            warn=_say,
            progress=lambda _what, fraction: bar(fraction),
        )


def _say(text: str) -> None:
    errors.print(printable(text), markup=False, soft_wrap=True)
