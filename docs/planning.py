"""The parts of docs/planner.md and docs/scale.md that the performance model writes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise

from dure.model.gguf import GgufFile
from dure.plan.demand import demand_of
from dure.plan.machines import engine_named, link_named
from dure.plan.measurements import LinkRecord, Measurement, RunRecord, SpeedRecord, measurements
from dure.plan.outline import outline_named, outlined_model
from dure.plan.outlook import Task, outlook_of
from dure.plan.performance import Interval, predict
from dure.plan.published import PublishedSpeed, error, percentile, predicted, published_speeds
from dure.plan.setups import counted, setup_of
from dure.sizes import bytes_text

__all__ = [
    "comparison_table",
    "measured_table",
    "pipeline_table",
    "pods_table",
    "published_table",
    "ranks_table",
]

KWH_PRICE, MONTHS = 0.30, 24


def published_table() -> str:
    """Return the errors of rows left out, and every row with what is predicted for it."""
    rows = published_speeds()
    left_out = [row for row in rows if row.is_left_out]
    generation = [error(predicted(r).generation.per_s, r.generation_per_s) for r in left_out]
    prompt = [error(predicted(r).prompt.per_s, r.prompt_per_s) for r in left_out if r.prompt_per_s]
    summary = [
        "| left out of every fit | rows | median error | nine of ten within |",
        "|---|---|---|---|",
        _summary("generation", generation),
        _summary("prompt", prompt),
    ]
    table = [
        "| row | what | nodes | generation, tokens/s: published | predicted | error | prompt: published | "
        "predicted | error | source |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(row) for row in rows),
    ]
    return "\n".join([*summary, "", "**Bold** rows were left out.", "", *table])


def _summary(name: str, errors: list[float]) -> str:
    median = statistics.median(map(abs, errors))
    return f"| {name} | {len(errors)} | {median:.1%} | {percentile(errors, 0.9):.1%} |"


def _row(row: PublishedSpeed) -> str:
    cells = [row.id, row.what, str(row.n_nodes), *_cells(row)]
    if row.is_left_out:
        cells = [f"**{cell}**" if cell else "" for cell in cells]
    return f"| {' | '.join([*cells, row.source])} |"


def _cells(row: PublishedSpeed) -> Iterator[str]:
    found = predicted(row)
    pairs = (
        (row.generation_per_s, found.generation.per_s),
        (row.prompt_per_s, found.prompt.per_s),
    )
    for published, value in pairs:
        if published is None:
            yield from ("", "", "")
        else:
            yield from (f"{published:.3g}", f"{value:.3g}", f"{error(value, published):+.0%}")


# ---------------------------------------------------------------- shared measurements


def measured_table() -> str:
    """Return every shared measurement, beside what was predicted then and what the catalogue predicts."""
    head = [
        "| record | machines | slowest link | model | weights | dure | generation, tokens/s: measured | "
        "predicted there | from the catalogue | prompt: measured | predicted there | "
        "from the catalogue |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [
        measured_row(name, one, run) for name, one in measurements().items() for run in one.runs
    ]
    return "\n".join([*head, *rows]) if rows else "There is none yet."


def measured_row(name: str, one: Measurement, run: RunRecord) -> str:
    """Return the line of one run of a record."""
    expected = one.predicted(run)
    depth = f", after {run.depth} tokens" if run.depth else ""
    cells = [
        f"{name}{depth}",
        one.title,
        _link_text(one.link),
        one.model.title,
        one.model.types,
        f"{one.software.get('dure', '')}, {one.month}",
        *_measured_cells(run.generation, expected.generation if expected else None),
        *_measured_cells(run.prompt, expected.prompt if expected else None),
    ]
    return f"| {' | '.join(cells)} |"


def _link_text(link: LinkRecord | None) -> str:
    if link is None:
        return ""
    return f"{8e-6 * link.bytes_per_s:.3g} Mbit/s, {1e3 * link.round_trip_s:.2g} ms"


def _measured_cells(speed: SpeedRecord, catalogue: Interval | None) -> Iterator[str]:
    yield _speed_text(speed.per_s)
    for value in (speed.predicted, catalogue.value if catalogue else None):
        yield "" if value is None else f"{_speed_text(value)} ({error(value, speed.per_s):+.0%})"


def _speed_text(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"


# ---------------------------------------------------------------- the comparison


def comparison_table() -> str:
    """Return one board of 16 GB beside four of 8 GB, published and predicted."""
    head = [
        "| machines | weights | engine | published, tokens/s | predicted | "
        "compute, sync, rest of a token (ms) | prompt, predicted | price today |",
        "|---|---|---|---|---|---|---|---|",
    ]
    cases = (
        ("pi5-16gb:1", "2.7bpw", "llama.cpp", "7.99 and 8.03"),
        ("pi5-8gb:4", "Q40", "distributed-llama", "13.04"),
        ("pi5-8gb:4", "Q40", "dure", ""),
        ("pi5-8gb:4", "2.7bpw", "dure", ""),
    )
    return "\n".join([*head, *(_compared(*case) for case in cases)])


def _compared(nodes: str, weights: str, engine: str, published: str) -> str:
    setup = replace(setup_of(counted("nodes", nodes)), engine=engine_named(engine))
    found = outlook_of(_model("qwen3:30b-a3b", weights), setup, Task())
    assert found.prediction is not None, "it can be cut"
    speed, time = found.prediction.generation_per_s, found.prediction.generation
    parts = ", ".join(f"{1e3 * s:.0f}" for s in (time.compute_s, time.sync_s, time.rest_s))
    bits = "4.5 bits" if weights == "Q40" else "2.70 bits"
    return (
        f"| {setup.title} | {bits} | {setup.engine.title} | {published} | "
        f"{speed.value:.1f} ({speed.low:.1f} to {speed.high:.1f}) | {parts} | "
        f"{found.prediction.prompt.per_s:.0f} | ${setup.price:.0f} |"
    )


@cache
def _model(name: str, quantization: str) -> GgufFile:
    outline = outline_named(name)
    assert outline is not None, "the catalogue has it"
    return outlined_model(name, outline, quantization)


# ---------------------------------------------------------------- scale

SCALED = ("llama3.1:8b", "qwen3:30b-a3b", "llama3.3:70b")
RANKS = (1, 2, 3, 4, 6, 8, 12, 16)
BOARD = "pi5-16gb"
LITTLE = 0.1  # of one board's speed


def ranks_table() -> str:
    """Return the speed of models over more and more boards, on several links."""
    head = [
        f"| model | link | {' | '.join(str(n) for n in RANKS)} | stops paying at |",
        f"|---|---|{'---|' * len(RANKS)}---|",
    ]
    rows = [_scaled(name, link) for name in SCALED for link in ("1gbe", "2.5gbe", "wifi6")]
    return "\n".join([*head, *rows])


def _scaled(name: str, link: str) -> str:
    model = _model(name, "Q4_0")
    speeds = {n: speed for n in RANKS if (speed := _speed(model, n, link))}
    best = max(speeds, key=lambda n: speeds[n])
    cells = (f"{speeds[n]:.2g}" if n in speeds else "too large" for n in RANKS)
    marked = (f"**{cell}**" if n == best else cell for n, cell in zip(RANKS, cells, strict=True))
    return f"| {name} | {link_named(link).title} | {' | '.join(marked)} | {_stop(speeds)} |"


def _speed(model: GgufFile, n: int, link: str) -> float:
    """Return the speed over n boards; 0 if they do not hold the model."""
    found = outlook_of(model, setup_of({BOARD: n}, link), Task())
    return found.prediction.generation.per_s if found.runs and found.prediction else 0.0


def _stop(speeds: Mapping[int, float]) -> str:
    """Return the number of boards after which each further one brings less than a tenth of one's speed."""
    (first, least), *_ = speeds.items()
    for n, more in pairwise(speeds):
        if (speeds[more] - speeds[n]) / (more - n) < LITTLE * least / first:
            return str(n)
    return f"more than {RANKS[-1]}"


def pipeline_table() -> str:
    """Return sixteen boards as a pipeline of groups, each of which cuts its layers among its boards."""
    head = [
        "| groups x boards | one request, tokens/s | a request for each group, tokens/s in all | "
        "memory of a board |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *(_pipeline("llama3.3:70b", n) for n in (16, 8, 4, 2, 1))])


def _pipeline(name: str, n_ranks: int) -> str:
    model, n_groups, link = _model(name, "Q4_0"), 16 // n_ranks, link_named("1gbe")
    setup = setup_of({BOARD: n_ranks}, "1gbe")
    demand = demand_of(model, [1.0] * n_ranks, [d.processor.features for d in setup.devices])
    found = predict(demand, setup.devices, link, setup.engine)
    hop = link.exchange_s.value + 4 * demand.n_embd / link.bytes_per_s.value
    token_s = found.generation.total_s + (n_groups - 1) * hop
    n_bytes = demand.ranks[0].memory.weights_bytes / n_groups
    return (
        f"| {n_groups} x {n_ranks} | {1 / token_s:.2g} | {n_groups / token_s:.2g} | "
        f"{bytes_text(n_bytes)} of weights |"
    )


def pods_table() -> str:
    """Return boards beside rented graphics cards: from how many hours a month boards are cheaper."""
    head = [
        "| model | boards | tokens/s | to buy | a million tokens (power) | rented | tokens/s | an hour | "
        "a million tokens (rent) | boards are cheaper from |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cases = (
        ("llama3.1:8b", 2, "rtx3090-pod"),
        ("qwen3:30b-a3b", 3, "rtx4090-pod"),
        ("llama3.3:70b", 8, "h100-pod"),
    )
    return "\n".join([*head, *(_pod(*case) for case in cases)])


def _pod(name: str, n: int, pod: str) -> str:
    model = _model(name, "Q4_0")
    own = outlook_of(model, setup_of({BOARD: n}), Task())
    rented = outlook_of(model, setup_of({pod: 1}), Task())
    saved = rented.setup.hourly - own.setup.cost_per_hour(KWH_PRICE)
    hours = own.setup.price / MONTHS / saved
    speeds = [one.prediction.generation.per_s for one in (own, rented) if one.prediction]
    costs = [
        one.setup.cost_per_million(speed, KWH_PRICE)
        for one, speed in zip((own, rented), speeds, strict=True)
    ]
    return (
        f"| {name} | {own.setup.title} | {speeds[0]:.2g} | ${own.setup.price:.0f} | ${costs[0]:.2f} | "
        f"{rented.setup.title} | {speeds[1]:.3g} | ${rented.setup.hourly:.2f} | ${costs[1]:.2f} | "
        f"{hours:.0f} hours a month |"
    )
