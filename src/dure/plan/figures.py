"""Numbers that say where they come from: what a plan shows beside each of its lines."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Basis", "Figure"]


class Basis(StrEnum):
    """How a figure is known, the surest first."""

    MEASURED = "measured here"
    FITTED = "fitted to published speeds"
    PUBLISHED = "published"
    CATALOGUE = "catalogue"
    ASSUMED = "assumed"

    @property
    def doubt(self) -> float:
        """Return by which part of itself such a speed may be wrong."""
        return _DOUBTS[self]


_DOUBTS = {
    Basis.MEASURED: 0.07,
    Basis.FITTED: 0.16,
    Basis.PUBLISHED: 0.18,
    Basis.CATALOGUE: 0.25,
    Basis.ASSUMED: 0.35,
}


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number in SI units (bytes, seconds, dollars, watts), and who says so. date: year and month."""

    value: float
    basis: Basis
    source: str
    date: str
