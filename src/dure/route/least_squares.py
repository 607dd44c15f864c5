"""Explains times as a sum of parts, each a factor of 0 or more times something counted.

Least squares of the errors in proportion, the newest measurements counting most. A measurement makes older
ones count less in what it tells itself, and in nothing else (directional forgetting, Kulhavý 1987): what a
token of a prompt costs is still known after many short prompts. Pure arithmetic. Refuses to know what is
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

__all__ = ["Belief", "TimesFit"]

_KEEP = 0.95  # of what is known of the same, with every measurement: about the last 20 count
_FIRM = 1e-9  # of all: no factor is left open
_NOTHING = 1e-12  # known of a direction
_SHORTEST_S = 1e-6  # that anything is expected to take


class Belief(NamedTuple):
    """Something held for true until measurements say otherwise: the sum of counts times factors.

    weight: of how many measurements.
    """

    counts: Sequence[float]
    total: float
    weight: float


class TimesFit(msgspec.Struct):
    """Measurements: sums of the products of counts (row by row), and of counts and times."""

    n: float = 0.0
    products: list[float] = []
    sums: list[float] = []

    def observe(self, counts: Sequence[float], seconds: float, expected_s: float) -> None:
        """Take in a time. expected_s: about what it should be; errors count in proportion to it."""
        expected_s = max(expected_s, _SHORTEST_S)
        scaled = [one / expected_s for one in counts]
        size = len(scaled)
        if len(self.sums) != size:
            self.products, self.sums = [0.0] * size * size, [0.0] * size
        self.n = self.n * _KEEP + 1
        self._forget(scaled)
        time = seconds / expected_s
        products = [one * other for one in scaled for other in scaled]
        self.products = [one + other for one, other in zip(self.products, products, strict=True)]
        self.sums = [one + part * time for one, part in zip(self.sums, scaled, strict=True)]

    def _forget(self, scaled: Sequence[float]) -> None:
        """Let what is known in the direction of these counts count less; the factors stay as they are."""
        size = len(scaled)
        rows = [self.products[row * size : (row + 1) * size] for row in range(size)]
        known = [sum(one * part for one, part in zip(row, scaled, strict=True)) for row in rows]
        in_all = sum(one * part for one, part in zip(known, scaled, strict=True))
        if in_all < _NOTHING:
            return
        lost = (1 - _KEEP) / in_all
        told = sum(one * part for one, part in zip(self.sums, scaled, strict=True))
        self.products = [
            one - lost * known[i // size] * known[i % size] for i, one in enumerate(self.products)
        ]
        self.sums = [one - lost * part * told for one, part in zip(self.sums, known, strict=True)]

    def factors(self, beliefs: Sequence[Belief]) -> list[float]:
        """Return the factors. beliefs: as many as leave none of them open."""
        size = len(beliefs[0].counts)
        products = self.products or [0.0] * size * size
        matrix = [products[row * size : (row + 1) * size] for row in range(size)]
        sums = list(self.sums or [0.0] * size)
        for counts, total, weight in beliefs:
            for row in range(size):
                sums[row] += weight * counts[row] * total
                for column in range(size):
                    matrix[row][column] += weight * counts[row] * counts[column]
        return _solved_above_0(matrix, sums)


def _solved_above_0(matrix: Sequence[Sequence[float]], sums: Sequence[float]) -> list[float]:
    """Return the solution without those that would be below 0."""
    left = list(range(len(sums)))
    factors = [0.0] * len(sums)
    while left:
        found = _solved([[matrix[i][j] for j in left] for i in left], [sums[i] for i in left])
        worst = min(range(len(left)), key=found.__getitem__)
        if found[worst] >= 0:
            for index, one in zip(left, found, strict=True):
                factors[index] = one
            break
        del left[worst]
    return factors


def _solved(matrix: list[list[float]], sums: list[float]) -> list[float]:
    """Return the solution of a symmetric system, by elimination."""
    size = len(sums)
    for i in range(size):
        pivot = matrix[i][i] = matrix[i][i] * (1 + _FIRM) + 1e-30
        for row in range(i + 1, size):
            factor = matrix[row][i] / pivot
            for column in range(i, size):
                matrix[row][column] -= factor * matrix[i][column]
            sums[row] -= factor * sums[i]
    for i in range(size - 1, -1, -1):
        known = sum(matrix[i][column] * sums[column] for column in range(i + 1, size))
        sums[i] = (sums[i] - known) / matrix[i][i]
    return sums
