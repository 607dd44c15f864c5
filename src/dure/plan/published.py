"""Speeds that others have published, and what is predicted for them: how far a plan can be believed.

Every third row is left out of every fit; the errors of those count. Refuses to fit anything itself.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from dure.plan.demand import Demand, demand_of
from dure.plan.devices import Device, EngineWays, NetworkLink
from dure.plan.machines import device_named, engine_named, link_named
from dure.plan.outline import outline_named, outlined_model
from dure.plan.performance import Prediction, predict

__all__ = [
    "PublishedSpeed",
    "demand_of_row",
    "error",
    "percentile",
    "predicted",
    "published_speeds",
]

_LEFT_OUT = 3  # each such row


@dataclass(frozen=True)
class PublishedSpeed:
    """A row. prompt_per_s: None if it was not published. is_left_out: of every fit."""

    id: str
    engine: str
    device: str
    n_nodes: int
    link: str
    model: str
    weights: str
    prompt_per_s: float | None
    generation_per_s: float
    what: str
    source: str
    is_left_out: bool


@cache
def published_speeds() -> tuple[PublishedSpeed, ...]:
    """Return all rows, in the order in which every third is left out."""
    text = (resources.files("dure.plan.catalogue") / "published.csv").read_text("utf-8")
    return tuple(
        PublishedSpeed(
            row["id"],
            row["engine"],
            row["device"],
            int(row["nodes"]),
            row["link"],
            row["model"],
            row["weights"],
            float(row["prompt_per_s"]) if row["prompt_per_s"] else None,
            float(row["generation_per_s"]),
            row["what"],
            row["source"],
            is_left_out=i % _LEFT_OUT == _LEFT_OUT - 1,
        )
        for i, row in enumerate(csv.DictReader(text.splitlines()))
    )


@cache
def demand_of_row(row: PublishedSpeed) -> Demand:
    """Return what a row's model asks of its ranks."""
    outline, features = outline_named(row.model), device_named(row.device).processor.features
    assert outline is not None, f"{row.id} is of a model that the catalogue has"
    model = outlined_model(row.model, outline, row.weights)
    return demand_of(model, [1.0] * row.n_nodes, [features] * row.n_nodes)


def predicted(
    row: PublishedSpeed,
    device: Device | None = None,
    link: NetworkLink | None = None,
    engine: EngineWays | None = None,
) -> Prediction:
    """Predict a row, with the catalogue's figures or with others."""
    return predict(
        demand_of_row(row),
        [device or device_named(row.device)] * row.n_nodes,
        link or link_named(row.link),
        engine or engine_named(row.engine),
    )


def error(value: float, published: float) -> float:
    """Return by which part of it a prediction misses what was published; less than 0 if it is too low."""
    return value / published - 1


def percentile(errors: Sequence[float], part: float) -> float:
    """Return the error that this part of all stays within: the smallest of them that does."""
    found = sorted(map(abs, errors))
    return found[max(0, math.ceil(part * len(found)) - 1)]
