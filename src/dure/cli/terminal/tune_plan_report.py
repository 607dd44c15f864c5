"""Says what a run of tuning would need, in words and as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dure.cli.terminal.console import output, print_warning
from dure.errors import UsageError
from dure.sizes import bytes_text

if TYPE_CHECKING:
    from dure.tune.estimate.estimates import TunePlan

__all__ = ["PlanOptions", "plan_data", "print_plan"]

PLAN = "Plan"


@dataclass(frozen=True)
class PlanOptions:
    """What is asked before a run."""

    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Say whether it fits and how long it takes, and do nothing.",
            rich_help_panel=PLAN,
        ),
    ] = False
    watts: Annotated[
        float | None,
        typer.Option(
            help="With --plan: what the machine draws, for the price of electricity.",
            show_default=False,
            rich_help_panel=PLAN,
        ),
    ] = None
    kwh_price: Annotated[
        float, typer.Option(help="With --watts: dollars per kWh.", rich_help_panel=PLAN)
    ] = 0.3
    hour_price: Annotated[
        float | None,
        typer.Option(
            help="With --plan: dollars per hour of a machine like this, if it is rented.",
            show_default=False,
            rich_help_panel=PLAN,
        ),
    ] = None

    def check(self) -> None:
        """Raise UsageError unless the prices make sense."""
        given = {"watts": self.watts, "kwh-price": self.kwh_price, "hour-price": self.hour_price}
        for name, value in given.items():
            if value is not None and value < 0:
                raise UsageError(f"--{name} {value:g}", "give a number above 0")

    def price(self, seconds: float) -> float | None:
        """Return the dollars of so much time; None if no price was given."""
        if self.watts is None and self.hour_price is None:
            return None
        hours = seconds / 3600
        return hours * ((self.watts or 0) / 1000 * self.kwh_price + (self.hour_price or 0))


def plan_data(plan: TunePlan, options: PlanOptions) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    price = None if plan.seconds is None else options.price(plan.seconds)
    room = plan.rooms[0]
    return {
        **asdict(plan),
        "needed_bytes": room.needed_bytes,
        "available_bytes": room.available_bytes,
        "fits": plan.fits,
        "price_usd": price,
    }


def print_plan(plan: TunePlan, options: PlanOptions, where: str = "on this machine") -> None:
    """Print a plan in words."""
    for note in plan.notes:
        print_warning(note)
    for heading, text in _lines(plan, options, where):
        output.print(f"{heading:<9}{text}", soft_wrap=True)


def _lines(plan: TunePlan, options: PlanOptions, where: str) -> Iterator[tuple[str, str]]:
    memory = plan.memory
    yield "data", plan.text
    yield "model", f"{memory.weights:,} weights, of which {memory.learned:,} learn"
    yield (
        "run",
        f"{plan.steps:,} steps, {plan.tokens:,} tokens, in {plan.arithmetic} on {plan.device}",
    )
    parts = (
        f"weights {bytes_text(memory.weight_bytes)}, optimizer {bytes_text(memory.state_bytes)}, "
    )
    parts += f"passes and gradients {bytes_text(memory.pass_bytes)}"
    said = [
        f"{bytes_text(room.needed_bytes)} of {room.where}, {bytes_text(room.available_bytes)} free"
        for room in plan.rooms
    ]
    free = f"{'; '.join(said)} ({parts})"
    if plan.fits:
        yield "memory", f"{free}: it fits"
    elif plan.switch:
        yield "memory", f"{free}: it does not fit; with {plan.switch} it does"
    else:
        yield "memory", f"{free}: it does not fit; use a smaller --ctx, or a smaller model"
    if plan.seconds is not None:
        yield "time", f"about {_time_text(plan.seconds)} {where}"
        price = options.price(plan.seconds)
        if price is not None:
            yield "price", f"about {price:.2f} usd"


def _time_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
