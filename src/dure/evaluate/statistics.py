"""What a number that was measured on some windows of text says of all text: an estimate and its interval.

Tokens of one window depend on each other, windows do not: so windows are drawn again, not tokens. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
import numpy.typing as npt

__all__ = ["Doubles", "Estimate", "bootstrapped", "mean_of_windows", "proportion"]

Doubles = npt.NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 1000
MOST_DRAWN = 20_000_000  # values in all resamples: enough for an interval, and a few seconds


@dataclass(frozen=True)
class Estimate:
    """A value, and the interval that holds the true one in 95 of 100 measurements. NaN: not known."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def margin(self) -> float:
        """The longer side of the interval."""
        return max(self.high - self.value, self.value - self.low)

    def transformed(self, function: Callable[[float], float]) -> Self:
        """Return the estimate of an increasing function of the value."""
        return type(self)(function(self.value), function(self.low), function(self.high))


def mean_of_windows(values: Doubles) -> Estimate:
    """Estimate the mean. values: [n_windows, n]."""
    return bootstrapped(values.mean(axis=1, keepdims=True), lambda drawn: float(drawn.mean()))


def bootstrapped(values: Doubles, statistic: Callable[[Doubles], float]) -> Estimate:
    """Estimate a statistic of values [n_windows, n]; it is given such an array of windows drawn again.

    Percentiles of the bootstrap, moved out as Student's t is wider than the normal distribution: with few
    windows the interval would be too short. Source: Hesterberg, What Teachers Should Know about the
    Bootstrap, 2015, section 5.3. One window has no interval.
    """
    n_windows = len(values)
    whole = statistic(values)
    if n_windows < 2:
        return Estimate(whole)
    random = np.random.default_rng(0)
    n = min(RESAMPLES, max(200, MOST_DRAWN // values.size))
    drawn = [statistic(values[random.integers(0, n_windows, n_windows)]) for _ in range(n)]
    tail = NormalDist().cdf(-math.sqrt(n_windows / (n_windows - 1)) * _student(n_windows - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(whole, min(float(low), whole), max(float(high), whole))


def _student(freedom: int) -> float:
    """Return the upper quantile of Student's t. Source: Abramowitz and Stegun, 26.7.5."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(freedom) ** (i + 1) for i, term in enumerate(terms))


def proportion(n: int, total: int) -> Estimate:
    """Estimate the part of all cases that n of a total stand for. Source: Wilson, 1927."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    part = n / total
    middle = (part + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(part * (1 - part) / total + z * z / (4 * total**2)) / (1 + z * z / total)
    return Estimate(part, max(0.0, middle - half), min(1.0, middle + half))
