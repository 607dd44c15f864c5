"""`dure plan`: whether a model fits on machines, how fast it would run, what it costs, and what to buy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Annotated

import typer

from dure.cli.terminal.console import errors, print_json
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.plan_options import Buying, PlannedMachines, PlannedTask
from dure.cli.terminal.plan_report import Planned, plan_facts, print_plan
from dure.cli.terminal.planned_model import planned_model
from dure.errors import UsageError
from dure.model.gguf import GgufFile
from dure.model.store import short_names
from dure.plan.buying import Market, ModelOf, Offer, best_models, options_of
from dure.plan.outline import outline_named, outlined_model, outlines, requantized
from dure.plan.outlook import Outlook, Task, outlook_of, quantizations_of
from dure.plan.setups import Setup

__all__ = ["plan"]


@expanded
def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Name (qwen3:4b, hf:owner/repository:Q4_K_M, or one that `dure ls` lists) or GGUF file.",
            show_default=False,
        ),
    ] = None,
    *,
    machines: PlannedMachines,
    buying: Buying,
    wanted: PlannedTask,
    as_json: Json = False,
) -> None:
    """Plan before you buy: whether a model fits on machines, how fast it would run, and what it would cost.

    Nothing is downloaded for a well-known model, and nothing is run. Every figure is told with how it is
    known, and with the command that checks it once you have the machines. --want and --have rank what to
    buy instead.

    Example: dure plan qwen3:30b-a3b --nodes pi5-8gb:4
    """
    wanted.task, wanted.prices  # noqa: B018 - they are checked
    if machines.cluster:
        places = {"--nodes": machines.nodes, "--link": machines.link}
        _refuse({**places, **buying.given}, "--cluster")
        _plan_cluster(_required(model), wanted, as_json=as_json)
    elif machines.nodes is not None:
        _refuse(buying.given, "--nodes")
        _plan_setup(_required(model), machines.setup(), wanted, as_json=as_json)
    elif buying.want is None and buying.have is None:
        raise UsageError(
            "no machines to plan for", "give --nodes, as in --nodes pi5-8gb:4, --cluster or --want"
        )
    else:
        _refuse({"--link": machines.link}, "--want and --have")
        _plan_buying(model, buying, wanted, as_json=as_json)


def _required(model: str | None) -> str:
    if model is None:
        raise UsageError("no model to plan for", "name one before --nodes, as in qwen3:8b")
    return model


def _refuse(given: Mapping[str, object], beside: str) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise UsageError(f"{' and '.join(names)} beside {beside}", "leave one of them out")


# ---------------------------------------------------------------- a setup


def _plan_setup(model: str, setup: Setup, wanted: PlannedTask, *, as_json: bool) -> None:
    task = wanted.task
    with planned_model(model, wanted.quantization) as found:
        outlook = outlook_of(found, setup, task)
        one_more: Outlook | None = None
        if not setup.engine.most_nodes:
            one_more = outlook_of(found, setup.with_one_more(), task)
        others = quantizations_of(found, setup, task)
    planned = Planned(model, wanted.quantization)
    if as_json:
        print_json(plan_facts(planned, outlook, one_more, others, wanted.prices))
    else:
        print_plan(planned, outlook, one_more, others, wanted.prices)


def _plan_cluster(model: str, wanted: PlannedTask, *, as_json: bool) -> None:
    """Plan for the joined machines; what was not measured of them is measured first."""
    from dure.cli.terminal.running_model import TerminalReporter
    from dure.cli.terminal.this_cluster import this_cluster
    from dure.deploy.cluster_setup import setup_of_cluster
    from dure.deploy.corrections import KnownCorrections
    from dure.deploy.options import RunOptions

    task = wanted.task
    options = RunOptions(ctx=task.n_ctx, n_sequences=task.n_sequences, cluster=True)
    cluster = this_cluster()
    with planned_model(model, wanted.quantization) as found:
        there = setup_of_cluster(found, options, cluster, TerminalReporter())
        shown = KnownCorrections(cluster.directory).of(found, there.setup, there.shares)
        outlook = outlook_of(found, there.setup, task, there.shares).corrected(shown)
        others = {
            one: other.corrected(shown)
            for one, other in quantizations_of(found, there.setup, task, there.shares).items()
        }
    planned = Planned(model, wanted.quantization)
    if as_json:
        facts = plan_facts(planned, outlook, None, others, wanted.prices)
        print_json({**facts, "left_out": dict(there.left_out)})
    else:
        print_plan(planned, outlook, None, others, wanted.prices, there.left_out)


# ---------------------------------------------------------------- what to buy


def _plan_buying(model: str | None, buying: Buying, wanted: PlannedTask, *, as_json: bool) -> None:
    from dure.cli.terminal.buying_report import (
        buying_facts,
        print_models,
        print_options,
        write_picture,
    )

    model = buying.wish[0] or model
    market = buying.market(wanted.prices.kwh, is_model=model is not None)
    buying.check_plot(model)
    options = _options(model, wanted.quantization, market, wanted.task)
    if as_json:
        print_json(buying_facts(options, market))
    elif model is not None:
        print_options(options, market)
    else:
        print_models(options, market)
    if buying.plot is not None:
        write_picture(options, market, buying.plot)


def _options(
    wanted: str | None, quantization: str | None, market: Market, task: Task
) -> list[Offer]:
    if wanted is None:
        if not market.have and not market.budget:
            raise UsageError("nothing to run a model on", "give --have, --budget or a model")
        with errors.status("trying the models of the catalogue"):
            return best_models(_pullable(), market, task)
    with planned_model(wanted) as found, errors.status("trying the machines of the catalogue"):
        if quantization is not None:
            only = requantized(found, quantization)
            options = options_of(wanted, lambda _: only, market, task)
            return [replace(one, quantization=quantization) for one in options]
        return options_of(wanted, cache(lambda one: requantized(found, one)), market, task)


def _pullable() -> dict[str, ModelOf]:
    """Return the published models that a short name pulls."""

    def model_of(name: str) -> ModelOf:
        outline = outline_named(name)
        assert outline is not None, "it is one of them"

        def in_types(quantization: str) -> GgufFile:
            return outlined_model(name, outline, quantization)

        return cache(in_types)

    return {name: model_of(name) for name in outlines() if name in short_names()}
