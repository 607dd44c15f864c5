"""The parts of docs/planner.md and docs/scale.md that the performance model writes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from dure.plan.published import PublishedSpeed, error, percentile, predicted, published_speeds

__all__ = ["published_table"]


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
