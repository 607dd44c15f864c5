"""What a panel of a dashboard is, in the terms of a person who reads it. Knows no JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Panel", "Row"]

Kind = Literal["timeseries", "stat", "table", "state-timeline"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture.

    tells: what can be read in it, for the panel's own help. queries: PromQL and the legend of each.
    unit: Grafana's name of it. width: of 24 columns. states: a word and a colour for each value, from 0 on.
    stacked: areas add up. decimals: None leaves it to Grafana.
    """

    title: str
    tells: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    states: tuple[tuple[str, str], ...] = ()
    stacked: bool = False
    decimals: int | None = None

    @property
    def instant(self) -> bool:
        """Whether only the present value matters."""
        return self.kind in {"stat", "table"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels that answer one question. height: of each, in Grafana's units of 30 pixels."""

    title: str
    panels: tuple[Panel, ...]
    height: int = 7
