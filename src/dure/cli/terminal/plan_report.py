"""What a plan says: as data, and as topics that each name their basis and the command that checks them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from dure.cli.terminal.console import output, printable
from dure.plan.correction import Correction
from dure.plan.devices import EngineWays
from dure.plan.figures import Basis, Figure
from dure.plan.outlook import NodePart, Outlook
from dure.plan.performance import Interval, Prediction, TokenTime
from dure.plan.setups import Setup
from dure.sizes import bytes_text

__all__ = [
    "PlanPrices",
    "Planned",
    "basis_of",
    "outlook_facts",
    "plan_facts",
    "print_plan",
    "speed_number",
    "speed_text",
]

_WEAKEST = list(Basis)
_SEEN = 0.005  # of a token: what takes less is not shown
_WHOLE = 100  # a speed from which decimals say nothing
_NAMES = 24  # characters of what a line is about
_WORTH = 0.02  # a gain in speed that is worth a word


@dataclass(frozen=True)
class PlanPrices:
    """What things cost. kwh: a kilowatt-hour, in dollars."""

    kwh: float


@dataclass(frozen=True)
class Planned:
    """A model as the user named it, and the types of weights to plan for; None: its own."""

    model: str
    quantization: str | None

    @property
    def title(self) -> str:
        """Return what is planned for, in words."""
        return f"{self.model} in {self.quantization}" if self.quantization else self.model

    @property
    def file(self) -> str:
        """Return it as commands want it: with other types it is a file that is still to be made."""
        return "FILE" if self.quantization else self.model

    @property
    def arguments(self) -> str:
        """Return it as `dure plan` wants it."""
        more = f" --quantization {self.quantization}" if self.quantization else ""
        return f"{self.model}{more}"


# ---------------------------------------------------------------- as data


def plan_facts(
    planned: Planned,
    found: Outlook,
    more: Outlook | None,
    others: Mapping[str, Outlook],
    prices: PlanPrices,
) -> dict[str, Any]:
    """Return a plan as plain data: of this setup, of one more machine, and of other quantizations."""
    return {
        "model": planned.title,
        **outlook_facts(found, prices),
        "one_more": outlook_facts(more, prices) if more else None,
        "quantizations": {one: outlook_facts(other, prices) for one, other in others.items()},
    }


def outlook_facts(found: Outlook, prices: PlanPrices) -> dict[str, Any]:
    """Return an outlook as plain data. Speeds are in tokens a second, costs in dollars."""
    setup = found.setup
    facts: dict[str, Any] = {
        "nodes": list(setup.names),
        "link": setup.link.title,
        "engine": setup.engine.title,
        "runs": found.runs,
        "problem": found.problem,
        "ctx": found.n_ctx,
        "smaller_ctx": found.smaller_ctx,
        "weights_bytes": found.weights_bytes,
        "parts": [_part_facts(part) for part in found.parts],
        "price": setup.price,
        "rent_per_hour": setup.hourly,
        "watts": setup.watts,
    }
    if found.prediction is None or found.full is None:
        return facts
    speed = found.prediction.generation.per_s
    return {
        **facts,
        "generation": _speed_facts(found.prediction.generation_per_s, found.prediction.generation),
        "prompt": _speed_facts(found.prediction.prompt_per_s, found.prediction.prompt),
        "generation_with_full_context": found.full.generation.per_s,
        "basis": basis_of(found.setup, found.correction),
        "correction": asdict(found.correction) if found.correction else None,
        "tokens_per_s_per_dollar": speed / setup.price if setup.price else None,
        "tokens_per_s_per_watt": speed / setup.watts if setup.watts else None,
        "dollars_per_million_tokens": setup.cost_per_million(speed, prices.kwh),
    }


def _part_facts(part: NodePart) -> dict[str, Any]:
    return {
        "node": part.name,
        "share": part.share,
        "weights_bytes": part.weights_bytes,
        "kv_bytes": part.kv_bytes,
        "memory_bytes": part.memory_bytes,
        "free_bytes": part.free_bytes,
        "fits": part.fits,
        "heads": part.heads,
        "kv_heads": part.kv_heads,
    }


def _speed_facts(interval: Interval, time: TokenTime) -> dict[str, float]:
    return {
        "tokens_per_s": interval.value,
        "low": interval.low,
        "high": interval.high,
        "compute_ms": 1e3 * time.compute_s,
        "sync_ms": 1e3 * time.sync_s,
        "rest_ms": 1e3 * time.rest_s,
    }


def basis_of(setup: Setup, correction: Correction | None = None) -> str:
    """Return how the figures of a speed are known: of machines, of the link, and of the engine.

    correction: what is in the speed of a run on the very machines.
    """
    if correction is not None:
        return str(Basis.MEASURED)
    parts = [f"machine {_weakest(one.processor.read for one in setup.devices)}"]
    if len(setup.devices) > 1:
        ways = setup.engine
        parts.append(f"link {_weakest([setup.link.bytes_per_s, setup.link.exchange_s])}")
        parts.append(f"{ways.title} {_weakest(_cluster_figures(ways))}")
    return "; ".join(parts)


def _cluster_figures(ways: EngineWays) -> list[Figure]:
    return [ways.uncut, ways.exchange_factor, ways.congestion]


def _weakest(figures: Iterable[Figure]) -> str:
    return str(max((one.basis for one in figures), key=_WEAKEST.index))


# ---------------------------------------------------------------- as text


@dataclass(frozen=True)
class _Topic:
    """Lines that are known alike, each a name and what is said. checks: commands that check them."""

    title: str
    basis: str
    lines: tuple[tuple[str, str], ...]
    checks: tuple[str, ...] = ()

    @property
    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the lines, then how they are known and checked."""
        yield from self.lines
        if self.basis:
            yield "known from", self.basis
        yield from zip(("check it with", *[""] * len(self.checks)), self.checks, strict=False)


def print_plan(
    planned: Planned,
    found: Outlook,
    more: Outlook | None,
    others: Mapping[str, Outlook],
    prices: PlanPrices,
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Write a plan for a person. left_out: why machines of a cluster would take no part, by name."""
    setup = found.setup
    link = f", {setup.link.title}" if len(setup.devices) > 1 else ""
    output.print(
        f"{printable(planned.title)} ({bytes_text(found.weights_bytes)}) on {setup.title}{link}, "
        f"run by {setup.engine.title}"
    )
    smaller = f" It would fit with --ctx {found.smaller_ctx}." if found.smaller_ctx else ""
    verdict = "It fits." if found.runs else f"It does not run: {found.problem}.{smaller}"
    output.print(printable(verdict))
    for topic in _topics(planned, found, more, prices):
        _print_topic(topic)
    if others:
        output.print("\nIn other quantizations, from the smallest to the largest")
        output.print(_quantizations_table(others))
        output.print(_not_running(others), end="")
    for one, reason in (left_out or {}).items():
        output.print(f"\n{printable(one)} would take no part: {printable(reason)}")
    output.print(
        "\nSpeeds lie between the two numbers in four of five cases. `assumed` has not been measured by "
        "anybody: measure it before you rely on it."
    )


def _print_topic(topic: _Topic) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(width=_NAMES)
    table.add_column(overflow="fold")
    for name, text in topic.rows:
        table.add_row(f"  {name}", printable(text))
    output.print(f"\n{topic.title}")
    output.print(table)


def _topics(
    planned: Planned, found: Outlook, more: Outlook | None, prices: PlanPrices
) -> Iterator[_Topic]:
    if found.runs and found.prediction is not None and found.full is not None:
        yield from _speed_topics(planned.file, found, found.prediction, found.full)
    if found.parts:
        yield _memory_topic(planned.file, found)
    if money := tuple(_money_lines(found, prices)):
        yield _Topic("Cost", "", money)
    if more is not None:
        check = f"dure plan {planned.arguments} --nodes …"
        lines = (("brings", _one_more(found, more)),)
        yield _Topic("One more machine, like the last", "the same", lines, (check,))


def _speed_topics(
    file: str, found: Outlook, prediction: Prediction, full: Prediction
) -> Iterator[_Topic]:
    several = len(found.setup.devices) > 1
    if found.setup.engine.most_nodes:
        checks: tuple[str, ...] = ("llama-bench -m FILE",)
    else:
        bench = f"dure bench {file}{' --cluster' if several else ''}"
        deep = f"with -d {max(0, found.n_ctx - 128)}, at the context's end"
        checks = (bench, deep, "with --trace t.json, what a token takes")
    lines: tuple[tuple[str, str], ...] = (
        ("generation", _speed(prediction.generation_per_s)),
        ("  a token takes", _split(prediction.generation)),
        ("  at the context's end", _speed(full.generation_per_s)),
        ("reading a prompt", _speed(prediction.prompt_per_s)),
        ("  a token takes", _split(prediction.prompt)),
    )
    if found.correction:
        lines = (*lines, ("corrected by", _correction(found.correction)))
    yield _Topic("Speed", basis_of(found.setup, found.correction), lines, checks)


def _correction(found: Correction) -> str:
    """Say what a run on these machines has shown, and when."""
    day = datetime.fromtimestamp(found.measured, UTC).date()
    return (
        f"generation {found.generation - 1:+.0%}, prompts {found.prompt - 1:+.0%}: what a run had "
        f"beside its prediction on {day}"
    )


def _speed(interval: Interval) -> str:
    return speed_text(interval, " tokens/s")


def speed_text(interval: Interval, unit: str = "") -> str:
    """Write a speed with what it lies between."""
    value, low, high = (speed_number(one) for one in (interval.value, interval.low, interval.high))
    return f"{value}{unit} ({low} to {high})"


def speed_number(speed: float) -> str:
    """Write a speed with three digits, or whole if it has more."""
    return f"{speed:,.0f}" if speed >= _WHOLE else f"{speed:.3g}"


def _split(time: TokenTime) -> str:
    parts = {"computing": time.compute_s, "summing": time.sync_s, "rest": time.rest_s}
    seen = {what: s for what, s in parts.items() if s > _SEEN * time.total_s}
    return ", ".join(f"{1e3 * s:.3g} ms {what}" for what, s in seen.items())


def _memory_topic(file: str, found: Outlook) -> _Topic:
    parts, lines = found.parts, []
    if len(parts) > 1:
        heads = f", query heads {_each([p.heads for p in parts])}"
        lines.append(("the cut", f"shares {_each([f'{p.share:.0%}' for p in parts])}{heads}"))
    memory = _each([bytes_text(part.memory_bytes) for part in parts])
    free = _each([bytes_text(part.free_bytes) for part in parts])
    lines.append(("memory", f"{memory}, of {free} that is free"))
    kv = sum(part.kv_bytes for part in parts)
    lines.append(("  of it the context", f"{bytes_text(kv)} for {found.n_ctx} tokens"))
    show = f"dure show {file}{' --cluster' if len(parts) > 1 else ''} --ctx {found.n_ctx}"
    return _Topic("Memory", "the model's sizes", tuple(lines), (show,))


def _each(values: list[Any]) -> str:
    """Write a value once if all are alike, else all of them."""
    texts = [str(value) for value in values]
    each = " each" if len(texts) > 1 else ""
    return f"{texts[0]}{each}" if len(set(texts)) == 1 else " + ".join(texts)


def _money_lines(found: Outlook, prices: PlanPrices) -> Iterator[tuple[str, str]]:
    """Yield what the machines cost, each line with how it is known and what checks it."""
    setup = found.setup
    if setup.price:
        known = _weakest(one.price for one in setup.devices if one.price)
        switch = f", of it {setup.switch_price:.0f} for a switch" if setup.switch_price else ""
        yield "price", f"{setup.price:.0f} dollars{switch} ({_dated(known, found)}; ask a shop)"
    if setup.hourly:
        known = _dated("published", found)
        yield "rent", f"{setup.hourly:.2f} dollars an hour ({known}; see its website)"
    if setup.watts:
        known = _weakest(one.watts for one in setup.devices)
        yield "power", f"{setup.watts:.0f} W under load ({known}; check it with a meter)"
    if found.prediction is None or not found.runs or not (setup.watts or setup.hourly):
        return
    speed = found.prediction.generation.per_s
    if setup.price:
        yield "100 dollars bring", f"{100 * speed / setup.price:.2g} tokens/s"
    if setup.watts:
        yield "a watt brings", f"{speed / setup.watts:.2g} tokens/s"
    what = "rent" if setup.hourly else f"power at {prices.kwh:.2f} dollars a kWh"
    cost = setup.cost_per_million(speed, prices.kwh)
    yield "a million tokens", f"{cost:.2f} dollars of {what} (check it with your bill)"


def _dated(basis: str, found: Outlook) -> str:
    dates = [
        figure.date for one in found.setup.devices for figure in (one.price, one.hourly) if figure
    ]
    return f"{basis}, {min(dates)}"


def _one_more(found: Outlook, more: Outlook) -> str:
    """Say what another machine like the last would bring."""
    if more.prediction is None or not more.runs:
        return f"nothing: {more.problem}"
    speed = more.prediction.generation.per_s
    if found.prediction is None or not found.runs:
        return f"that it runs, with {speed:.3g} tokens/s"
    gain = speed / found.prediction.generation.per_s - 1
    if gain < _WORTH:
        return f"nothing: {speed:.3g} tokens/s ({gain:+.0%})"
    price = more.setup.price - found.setup.price
    return f"{speed:.3g} tokens/s ({gain:+.0%}) for {price:.0f} dollars"


def _quantizations_table(others: Mapping[str, Outlook]) -> Table:
    table = Table("  types", box=None, pad_edge=False)
    for heading in ("size", "fullest memory", "generation", "prompt", ""):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for name, found in others.items():
        memory = max((part.memory_bytes for part in found.parts), default=0)
        speeds = ("", "")
        if found.prediction is not None and found.runs:
            both = found.prediction.generation_per_s, found.prediction.prompt_per_s
            speeds = (speed_number(both[0].value), f"{speed_number(both[1].value)} tokens/s")
        sizes = bytes_text(found.weights_bytes), bytes_text(memory) if memory else ""
        table.add_row(f"  {name}", *sizes, *speeds, "fits" if found.runs else "does not run")
    return table


def _not_running(others: Mapping[str, Outlook]) -> str:
    """Return why the smallest of those does not run that do not; "" if all do."""
    for name, found in others.items():
        if not found.runs:
            return f"  {name} does not run: {printable(found.problem)}.\n"
    return ""
