"""What to buy, as data, as a table with a shopping list, and as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dure.cli.terminal.console import output, printable
from dure.cli.terminal.plan_report import PlanPrices, outlook_facts, speed_number, speed_text
from dure.errors import ResourceError
from dure.plan.buying import YEAR, Market, Offer
from dure.plan.machines import device_named
from dure.whole_file import write_whole

__all__ = ["buying_facts", "print_models", "print_options", "write_picture"]

_SHOWN = 14  # rows


# ---------------------------------------------------------------- as data


def buying_facts(options: Sequence[Offer], market: Market) -> dict[str, Any]:
    """Return options as plain data. break_even_months: None if never, or if it is rented itself."""
    rented = cheapest_rented(options)
    prices = PlanPrices(market.kwh_price)
    return {
        "tokens_per_s": market.tokens_per_s,
        "budget": market.budget if math.isfinite(market.budget) else None,
        "hours_per_month": market.hours,
        "options": [
            {
                "model": one.model,
                "quantization": one.quantization,
                "buy": dict(one.buy),
                "to_pay": one.price,
                "dollars_per_month": one.month,
                "dollars_first_year": one.year,
                "meets": one.meets,
                "break_even_months": _finite(one.break_even_months(rented)),
                **outlook_facts(one.outlook, prices),
            }
            for one in options
        ],
    }


def _finite(months: float | None) -> float | None:
    return months if months is not None and math.isfinite(months) else None


def cheapest_rented(options: Sequence[Offer]) -> Offer | None:
    """Return the rented option that meets the wish for the least rent, or None."""
    rented = [one for one in options if one.meets and one.outlook.setup.hourly]
    return min(rented, key=lambda one: one.month, default=None)


# ---------------------------------------------------------------- as text


def print_options(options: Sequence[Offer], market: Market) -> None:
    """Write the ways to run a model, and what to buy for the first."""
    rented = cheapest_rented(options)
    output.print(
        f"{printable(options[0].model)} at {market.tokens_per_s:g} tokens/s or more, "
        f"{market.hours:g} hours a month, by what the first year costs:\n"
    )
    table = Table("machines", box=None, pad_edge=False, collapse_padding=True)
    for heading in ("in", "tokens/s", "to pay", "monthly", "year one", "pays off"):
        is_text = heading in {"in", "pays off"}
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for one in options[:_SHOWN]:
        found = one.outlook.prediction
        shown = speed_text(found.generation_per_s) if one.tokens_per_s and found else "-"
        cells = [f"{value:.0f}" for value in (one.price, one.month, one.year)]
        pays = _pays_off(one, rented)
        table.add_row(_nodes(one, ", "), one.quantization, shown, *cells, pays)
    output.print(table)
    output.print(
        "\nMachines as --nodes takes them. Each pays off when it has cost less than the cheapest rented "
        "machine that is fast enough.",
        end="",
    )
    output.print(_notes())
    if options[0].meets:
        _print_shopping(options[0])
    else:
        output.print(
            f"\nNothing within these limits reaches {market.tokens_per_s:g} tokens/s: allow a larger "
            "--budget, or wish for less."
        )


def _nodes(one: Offer, between: str) -> str:
    """Return the machines of an option as --nodes takes them."""
    names = one.outlook.setup.names
    return between.join(f"{name}:{names.count(name)}" for name in dict.fromkeys(names))


def _pays_off(one: Offer, rented: Offer | None) -> str:
    """Say when an option has cost less than renting, or why it is none."""
    if not one.meets:
        return "too slow" if one.tokens_per_s else "does not run"
    if one.outlook.setup.hourly:
        return "rented"
    months = one.break_even_months(rented)
    if months is None:
        return ""
    if months == 0:
        return "at once"
    return f"{math.ceil(months)} months" if math.isfinite(months) else "never"


def _notes() -> str:
    return (
        "\nDollars, without taxes, cases, cards and power supplies; prices are of the month that "
        "`dure plan MODEL --nodes …` shows, so look at a shop. Rented ones are billed while they run."
    )


def _print_shopping(one: Offer) -> None:
    """Write what to buy for an option."""
    if not one.buy:
        output.print("\nYou have all that it needs.")
        return
    setup = one.outlook.setup
    output.print("\nShopping list:")
    left = one.price
    for name, n in one.buy.items():
        device = device_named(name)
        figure = device.price or device.hourly
        assert figure is not None, "every device has a price"
        unit = "dollars" if device.price else "dollars an hour"
        output.print(
            f"  {n} x {device.title}, {figure.value:g} {unit} ({figure.basis}, {figure.date})",
            soft_wrap=True,
        )
        left -= n * figure.value if device.price else 0.0
    if left > 0:
        output.print(f"  a switch for {setup.link.title}, {left:g} dollars")
    model = f"{one.model} --quantization {one.quantization}"
    nodes = _nodes(one, ",")
    output.print(f"\nMore about it: dure plan {model} --nodes {nodes}", soft_wrap=True)


def print_models(options: Sequence[Offer], market: Market) -> None:
    """Write the models that run well on what one has, and with what the budget buys."""
    if not options:
        output.print(
            f"No model of the catalogue reaches {market.tokens_per_s:g} tokens/s there: allow a larger "
            '--budget, or less speed, as in --want "at 2 tok/s".'
        )
        return
    output.print(f"These run with {market.tokens_per_s:g} tokens/s or more, the most able first:\n")
    table = Table("model", box=None, pad_edge=False, collapse_padding=True)
    for heading in ("in", "tokens/s", "prompt", "to buy", "dollars"):
        is_text = heading in {"in", "to buy"}
        table.add_column(
            heading, justify="left" if is_text else "right", no_wrap=heading != "to buy"
        )
    for one in options[:_SHOWN]:
        found = one.outlook.prediction
        assert found is not None, "it runs"
        table.add_row(
            one.model,
            one.quantization,
            speed_text(found.generation_per_s),
            speed_number(found.prompt.per_s),
            ", ".join(f"{n} x {device_named(name).title}" for name, n in one.buy.items())
            or "nothing",
            f"{one.price:.0f}",
        )
    output.print(table)
    output.print(
        "\nHow able a model is, is guessed from its size alone: try it before you buy. A model with "
        "`a3b` in its name has many weights and uses few of them for a token."
    )
    output.print(_notes())
    _print_shopping(options[0])


# ---------------------------------------------------------------- as a picture


def write_picture(options: Sequence[Offer], market: Market, path: Path) -> None:
    """Draw speed against the first year's cost. Raises ResourceError if the file cannot be written."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "dure"  # the same figure, the same file
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for one in options:
        if not one.tokens_per_s or one.outlook.prediction is None:
            continue
        speed = one.outlook.prediction.generation_per_s
        spread = [[speed.value - speed.low], [speed.high - speed.value]]
        axes.errorbar([one.year], [speed.value], yerr=spread, fmt="o", capsize=3)
        axes.annotate(
            f"{one.outlook.setup.title}, {one.quantization}",
            (one.year, speed.value),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=7,
        )
    axes.axhline(market.tokens_per_s, linestyle=":", color="gray")
    axes.set_yscale("log")
    axes.set_xlabel(f"dollars in the first {YEAR} months, {market.hours:g} hours a month")
    axes.set_ylabel("tokens/s")
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)
    data = io.BytesIO()
    kind = path.suffix[1:].lower()
    figure.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {})
    try:
        write_whole(path, data.getvalue())
    except OSError as error:
        raise ResourceError(f"--plot {path} cannot be written: {error.strerror}") from error
