"""`dure plan`: whether a model fits on machines, how fast it would run, what it costs, and what to buy."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.console import errors, print_json
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.plan_report import Planned, PlanPrices, plan_facts, print_plan
from dure.cli.terminal.planned_model import planned_model
from dure.cli.terminal.quantities import dollars_of, tokens_per_s_of
from dure.errors import UsageError
from dure.model.gguf import GgufFile
from dure.model.store import short_names
from dure.plan.buying import Market, ModelOf, Offer, best_models, options_of
from dure.plan.outline import outline_named, outlined_model, outlines, requantized
from dure.plan.outlook import Outlook, Task, outlook_of, quantizations_of
from dure.plan.setups import Setup, counted, setup_of

__all__ = ["plan"]

MACHINES, BUYING = "Machines", "What to buy"
_WANT = re.compile(r"(?:(?P<model>\S+)\s+)?at\s+(?P<speed>.+)|(?P<alone>\S+)")
_WELL = 5.0  # tokens/s: about as fast as one reads


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Name (qwen3:4b, hf:owner/repository:Q4_K_M, or one that `dure ls` lists) or GGUF file.",
            show_default=False,
        ),
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(
            metavar="pi5-8gb:4|...",
            help="The machines, each with its number: pi5-8gb:4,n150. A wrong name lists those that the "
            "catalogue has.",
            show_default=False,
            rich_help_panel=MACHINES,
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="1gbe|2.5gbe|wifi6|...",
            help="What connects them.",
            show_default="what they have",
            rich_help_panel=MACHINES,
        ),
    ] = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="The cluster's machines, with what was measured of them.",
            rich_help_panel=MACHINES,
        ),
    ] = False,
    want: Annotated[
        str | None,
        typer.Option(
            metavar='"MODEL at 10 tok/s"',
            help='Rank what could be bought or rented for a speed; without a model, "at 10 tok/s", those '
            "that run on what you have.",
            show_default=False,
            rich_help_panel=BUYING,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="300usd",
            help="What may be spent at once.",
            show_default="no limit; 0 with --have alone",
            rich_help_panel=BUYING,
        ),
    ] = None,
    have: Annotated[
        str | None,
        typer.Option(
            metavar="pi5-8gb:2|...",
            help="Machines that you have already.",
            show_default=False,
            rich_help_panel=BUYING,
        ),
    ] = None,
    hours: Annotated[
        float, typer.Option(help="Hours of use in a month.", rich_help_panel=BUYING)
    ] = 60.0,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw speed against cost into this file, .svg or .png.",
            show_default=False,
            rich_help_panel=BUYING,
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="Q4_K_M|2.7bpw|...",
            help="Plan for these types of weights, or for a mean number of bits.",
            show_default="the file's own; with --want the finest that is fast enough",
        ),
    ] = None,
    ctx: Annotated[
        int | None,
        typer.Option(
            "--ctx",
            "-c",
            help="Context in tokens.",
            show_default="4096, or less if trained for less",
        ),
    ] = None,
    parallel: Annotated[int, typer.Option(help="Number of answers at once.")] = 1,
    electricity: Annotated[
        str, typer.Option(metavar="PRICE", help="Price of a kilowatt-hour in dollars.")
    ] = "0.30usd",
    as_json: Json = False,
) -> None:
    """Plan before you buy: whether a model fits on machines, how fast it would run, and what it would cost.

    Nothing is downloaded for a well-known model, and nothing is run. Every line says how it is known, and
    the command that checks it once you have the machines. --want and --have rank what to buy instead.

    Example: dure plan qwen3:30b-a3b --nodes pi5-8gb:4
    """
    task, kwh_price = _task(ctx, parallel), dollars_of("--electricity", electricity)
    if cluster:
        given = {"--nodes": nodes, "--link": link, "--want": want, "--have": have}
        _refuse({**given, "--budget": budget, "--plot": plot}, "--cluster")
        _plan_cluster(_required(model), task, quantization, kwh_price, as_json=as_json)
        return
    if nodes is not None:
        _refuse({"--want": want, "--have": have, "--budget": budget, "--plot": plot}, "--nodes")
        setup = setup_of(counted("--nodes", nodes), link)
        _plan_setup(_required(model), setup, task, quantization, kwh_price, as_json=as_json)
        return
    if want is None and have is None:
        raise UsageError(
            "no machines to plan for", "give --nodes, as in --nodes pi5-8gb:4, --cluster or --want"
        )
    _refuse({"--link": link}, "--want and --have")
    wanted, speed = _want(want) if want else (None, _WELL)
    wanted = wanted or model
    market = _market(have, budget, speed, hours, kwh_price, is_model=wanted is not None)
    if plot is not None:
        _check_plot(plot, wanted)
    options = _options(wanted, quantization, market, task)
    _show_options(options, market, plot, as_json=as_json, is_model=wanted is not None)


def _required(model: str | None) -> str:
    if model is None:
        raise UsageError("no model to plan for", "name one before --nodes, as in qwen3:8b")
    return model


def _refuse(given: dict[str, object], beside: str) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise UsageError(f"{' and '.join(names)} beside {beside}", "leave one of them out")


def _task(ctx: int | None, parallel: int) -> Task:
    if ctx is not None and ctx < 1:
        raise UsageError(f"--ctx {ctx}", "give a number of tokens above 0")
    if parallel < 1:
        raise UsageError(f"--parallel {parallel}", "give a number above 0")
    return Task(ctx, parallel)


# ---------------------------------------------------------------- a setup


def _plan_setup(
    model: str,
    setup: Setup,
    task: Task,
    quantization: str | None,
    kwh_price: float,
    *,
    as_json: bool,
) -> None:
    prices = PlanPrices(kwh_price)
    with planned_model(model, quantization) as found:
        outlook = outlook_of(found, setup, task)
        one_more: Outlook | None = None
        if not setup.engine.most_nodes:
            one_more = outlook_of(found, setup.with_one_more(), task)
        others = quantizations_of(found, setup, task)
    planned = Planned(model, quantization)
    if as_json:
        print_json(plan_facts(planned, outlook, one_more, others, prices))
    else:
        print_plan(planned, outlook, one_more, others, prices)


def _plan_cluster(
    model: str, task: Task, quantization: str | None, kwh_price: float, *, as_json: bool
) -> None:
    """Plan for the joined machines; what was not measured of them is measured first."""
    from dure.cli.terminal.running_model import TerminalReporter
    from dure.cluster.root.membership import Cluster
    from dure.deploy.cluster_setup import setup_of_cluster
    from dure.deploy.corrections import KnownCorrections
    from dure.deploy.options import RunOptions
    from dure.places import cluster_directory

    options = RunOptions(ctx=task.n_ctx, n_sequences=task.n_sequences, cluster=True)
    prices = PlanPrices(kwh_price)
    with planned_model(model, quantization) as found:
        cluster = Cluster(cluster_directory())
        there = setup_of_cluster(found, options, cluster, TerminalReporter())
        shown = KnownCorrections(cluster.directory).of(found, there.setup, there.shares)
        outlook = outlook_of(found, there.setup, task, there.shares).corrected(shown)
        others = {
            one: other.corrected(shown)
            for one, other in quantizations_of(found, there.setup, task, there.shares).items()
        }
    planned = Planned(model, quantization)
    if as_json:
        facts = plan_facts(planned, outlook, None, others, prices)
        print_json({**facts, "left_out": dict(there.left_out)})
    else:
        print_plan(planned, outlook, None, others, prices, there.left_out)


# ---------------------------------------------------------------- what to buy


def _want(text: str) -> tuple[str | None, float]:
    """Return the model and the speed of a wish: "qwen3:8b at 10 tok/s", "at 10 tok/s", "qwen3:8b"."""
    match = _WANT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--want {text}", 'write it as "qwen3:8b at 10 tok/s"')
    speed = tokens_per_s_of("--want", match["speed"]) if match["speed"] else _WELL
    return match["model"] or match["alone"], speed


def _market(
    have: str | None,
    budget: str | None,
    speed: float,
    hours: float,
    kwh_price: float,
    *,
    is_model: bool,
) -> Market:
    if not 0 < hours <= 744:
        raise UsageError(f"--hours {hours:g}", "give the hours of a month, up to 744")
    most = dollars_of("--budget", budget) if budget else (math.inf if is_model else 0.0)
    return Market(counted("--have", have) if have else {}, most, speed, hours, kwh_price)


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
            return [_named(one, quantization) for one in options]
        return options_of(wanted, cache(lambda one: requantized(found, one)), market, task)


def _named(option: Offer, quantization: str) -> Offer:
    from dataclasses import replace

    return replace(option, quantization=quantization)


def _pullable() -> dict[str, ModelOf]:
    """Return the published models that a short name pulls."""

    def model_of(name: str) -> ModelOf:
        outline = outline_named(name)
        assert outline is not None, "it is one of them"

        def in_types(quantization: str) -> GgufFile:
            return outlined_model(name, outline, quantization)

        return cache(in_types)

    return {name: model_of(name) for name in outlines() if name in short_names()}


def _check_plot(plot: Path, wanted: str | None) -> None:
    from dure.evaluate.plot import check_plot

    if wanted is None:
        raise UsageError("--plot without a model", 'name one, as in --want "qwen3:8b at 10 tok/s"')
    check_plot(plot)


def _show_options(
    options: list[Offer], market: Market, plot: Path | None, *, as_json: bool, is_model: bool
) -> None:
    from dure.cli.terminal.buying_report import (
        buying_facts,
        print_models,
        print_options,
        write_picture,
    )

    if as_json:
        print_json(buying_facts(options, market))
    elif is_model:
        print_options(options, market)
    else:
        print_models(options, market)
    if plot is not None:
        write_picture(options, market, plot)
