"""What `dure plan` is asked: on which machines, what could be bought, and what the model is to do."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.parameters import MODEL, Context
from dure.cli.terminal.plan_report import PlanPrices
from dure.cli.terminal.quantities import dollars_of, tokens_per_s_of
from dure.deploy.options import check_sequences
from dure.errors import UsageError
from dure.plan.buying import Market
from dure.plan.memory import check_ctx
from dure.plan.outlook import Task
from dure.plan.setups import Setup, counted, setup_of

__all__ = ["Buying", "PlannedMachines", "PlannedTask"]

MACHINES, BUYING = "Machines", "What to buy"
_WANT = re.compile(r"(?:(?P<model>\S+)\s+)?at\s+(?P<speed>.+)|(?P<alone>\S+)")
_WELL = 5.0  # tokens/s: about as fast as one reads
_MONTH = 744  # hours


@dataclass(frozen=True)
class PlannedMachines:
    """Which machines are planned for: of the catalogue, or the cluster's."""

    nodes: Annotated[
        str | None,
        typer.Option(
            metavar="pi5-8gb:4|...",
            help="The machines, each with its number: pi5-8gb:4,n150. A wrong name lists those that the "
            "catalogue has.",
            show_default=False,
            rich_help_panel=MACHINES,
        ),
    ] = None
    link: Annotated[
        str | None,
        typer.Option(
            metavar="1gbe|2.5gbe|wifi6|...",
            help="What connects them.",
            show_default="what they have",
            rich_help_panel=MACHINES,
        ),
    ] = None
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="The cluster's machines, with what was measured of them.",
            rich_help_panel=MACHINES,
        ),
    ] = False

    def setup(self) -> Setup:
        """Return the machines of --nodes. Raises UsageError."""
        assert self.nodes is not None, "it was given"
        return setup_of(counted("--nodes", self.nodes), self.link)


@dataclass(frozen=True)
class Buying:
    """What could be bought or rented, for which speed."""

    want: Annotated[
        str | None,
        typer.Option(
            metavar='"MODEL at 10 tok/s"',
            help='Rank what could be bought or rented for a speed; without a model, "at 10 tok/s", those '
            "that run on what you have.",
            show_default=False,
            rich_help_panel=BUYING,
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="300usd",
            help="What may be spent at once.",
            show_default="no limit; 0 with --have alone",
            rich_help_panel=BUYING,
        ),
    ] = None
    have: Annotated[
        str | None,
        typer.Option(
            metavar="pi5-8gb:2|...",
            help="Machines that you have already.",
            show_default=False,
            rich_help_panel=BUYING,
        ),
    ] = None
    hours: Annotated[
        float, typer.Option(help="Hours of use in a month.", rich_help_panel=BUYING)
    ] = 60.0
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw speed against cost into this file, .svg or .png.",
            show_default=False,
            rich_help_panel=BUYING,
        ),
    ] = None

    @property
    def given(self) -> Mapping[str, object]:
        """Return the options that were given, by name; --hours has a default."""
        named = {"--want": self.want, "--have": self.have, "--budget": self.budget}
        return {
            name: one for name, one in {**named, "--plot": self.plot}.items() if one is not None
        }

    @property
    def wish(self) -> tuple[str | None, float]:
        """Return the model and the speed of "qwen3:8b at 10 tok/s", "at 10 tok/s" or "qwen3:8b".

        Raises UsageError.
        """
        if self.want is None:
            return None, _WELL
        match = _WANT.fullmatch(self.want.strip())
        if match is None:
            raise UsageError(f"--want {self.want}", 'write it as "qwen3:8b at 10 tok/s"')
        speed = tokens_per_s_of("--want", match["speed"]) if match["speed"] else _WELL
        return match["model"] or match["alone"], speed

    def market(self, kwh_price: float, *, is_model: bool) -> Market:
        """Return what may be bought. is_model: for one model; else for any. Raises UsageError."""
        if not 0 < self.hours <= _MONTH:
            raise UsageError(
                f"--hours {self.hours:g}", f"give the hours of a month, up to {_MONTH}"
            )
        no_limit = math.inf if is_model else 0.0
        most = dollars_of("--budget", self.budget) if self.budget else no_limit
        have = counted("--have", self.have) if self.have else {}
        return Market(have, most, self.wish[1], self.hours, kwh_price)

    def check_plot(self, model: str | None) -> None:
        """Raise UsageError if a picture was asked for that cannot be drawn."""
        if self.plot is None:
            return
        from dure.evaluate.plot import check_plot

        if model is None:
            raise UsageError(
                "--plot without a model", 'name one, as in --want "qwen3:8b at 10 tok/s"'
            )
        check_plot(self.plot)


@dataclass(frozen=True)
class PlannedTask:
    """In which types of weights the model is, what it is to do, and what power costs."""

    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="Q4_K_M|2.7bpw|...",
            help="Plan for these types of weights, or for a mean number of bits.",
            show_default="the file's own; with --want the finest that is fast enough",
            rich_help_panel=MODEL,
        ),
    ] = None
    ctx: Context = None
    parallel: Annotated[int, typer.Option(help="Number of answers at once.")] = 1
    electricity: Annotated[
        str, typer.Option(metavar="PRICE", help="Price of a kilowatt-hour in dollars.")
    ] = "0.30usd"

    @property
    def task(self) -> Task:
        """Return what the model is to do. Raises UsageError."""
        check_ctx(self.ctx)
        check_sequences(self.parallel)
        return Task(self.ctx, self.parallel)

    @property
    def prices(self) -> PlanPrices:
        """Return what things cost. Raises UsageError."""
        return PlanPrices(dollars_of("--electricity", self.electricity))
