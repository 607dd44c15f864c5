"""`dure plan`: whether a model fits on machines, how fast it would run, and what it would cost."""

from __future__ import annotations

from typing import Annotated

import typer

from dure.cli.terminal.console import print_json
from dure.cli.terminal.parameters import Json, Model
from dure.cli.terminal.plan_report import PlanPrices, plan_facts, print_plan
from dure.cli.terminal.planned_model import planned_model
from dure.cli.terminal.quantities import dollars_of
from dure.errors import UsageError
from dure.plan.outlook import Outlook, Task, outlook_of, quantizations_of
from dure.plan.setups import Setup, counted, setup_of

__all__ = ["plan"]


def plan(
    model: Model,
    nodes: Annotated[
        str | None,
        typer.Option(
            metavar="pi5-8gb:4|...",
            help="The machines, each with its number: pi5-8gb:4,n150. A wrong name lists those that the "
            "catalogue has.",
            show_default=False,
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="1gbe|2.5gbe|wifi6|...",
            help="What connects them.",
            show_default="what they have",
        ),
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="Q4_K_M|2.7bpw|...",
            help="Plan for these types of weights, or for a mean number of bits.",
            show_default="the file's own",
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
    the command that checks it once you have the machines.

    Example: dure plan qwen3:30b-a3b --nodes pi5-8gb:4
    """
    if nodes is None:
        raise UsageError("no machines to plan for", "give --nodes, as in --nodes pi5-8gb:4")
    setup, task = setup_of(counted("--nodes", nodes), link), _task(ctx, parallel)
    prices = PlanPrices(dollars_of("--electricity", electricity))
    with planned_model(model, quantization) as found:
        outlook = outlook_of(found, setup, task)
        more = _one_more(setup)
        one_more = outlook_of(found, more, task) if more else None
        others = quantizations_of(found, setup, task)
        name = model if quantization is None else f"{model} in {quantization}"
    _show(name, outlook, one_more, others, prices, as_json=as_json)


def _show(
    name: str,
    outlook: Outlook,
    one_more: Outlook | None,
    others: dict[str, Outlook],
    prices: PlanPrices,
    *,
    as_json: bool,
) -> None:
    if as_json:
        print_json(plan_facts(name, outlook, one_more, others, prices))
    else:
        print_plan(name, outlook, one_more, others, prices)


def _task(ctx: int | None, parallel: int) -> Task:
    if ctx is not None and ctx < 1:
        raise UsageError(f"--ctx {ctx}", "give a number of tokens above 0")
    if parallel < 1:
        raise UsageError(f"--parallel {parallel}", "give a number above 0")
    return Task(ctx, parallel)


def _one_more(setup: Setup) -> Setup | None:
    """Return the setup with another machine; None for one that works alone."""
    return None if setup.engine.most_nodes else setup.with_one_more()
