"""Fits a line to what was measured, the newest counting most: y = intercept + slope * x.

Pure. Refuses to know what is measured: seconds by tokens, or tokens by bytes.
"""

from __future__ import annotations

import msgspec

__all__ = ["Decayed", "LineFit"]

_KEEP = 0.95  # of what is known, with every new measurement: about the last 20 count
_LEAST_X = 1e-6  # of all measurements together


class Decayed(msgspec.Struct):
    """A ratio of two sums, the newest parts counting most."""

    above: float = 0.0
    below: float = 0.0

    def observe(self, above: float, below: float) -> None:
        """Take in a measurement."""
        self.above = self.above * _KEEP + above
        self.below = self.below * _KEEP + below

    def ratio(self, otherwise: float) -> float:
        """Return the ratio; `otherwise` if nothing was measured."""
        return self.above / self.below if self.below > 0 else otherwise


class LineFit(msgspec.Struct):
    """A line through measurements with x and y of 0 or more; neither of its parts is below 0.

    n, x, y, xx, xy: decayed sums. Measurements at nearly one x do not tell the slope from the intercept;
    the line then leans on a slope that is believed beforehand.
    """

    n: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def observe(self, x: float, y: float) -> None:
        """Take in a measurement."""
        self.n = self.n * _KEEP + 1
        self.x = self.x * _KEEP + x
        self.y = self.y * _KEEP + y
        self.xx = self.xx * _KEEP + x * x
        self.xy = self.xy * _KEEP + x * y

    def line(self, believed: float, spread: float) -> tuple[float, float]:
        """Return intercept and slope.

        believed: the slope if nothing is measured. spread: measurements whose x differ by less tell
        little of the slope.
        """
        if self.x < _LEAST_X:
            return 0.0, believed
        mean_x, mean_y = self.x / self.n, self.y / self.n
        steepest = mean_y / mean_x  # the line through 0: a steeper one begins below it
        prior = min(believed, steepest) if mean_x < spread else steepest
        varied = max(0.0, self.xx - self.x * mean_x)
        weight = spread * spread
        slope = (self.xy - self.x * mean_y + weight * prior) / (varied + weight)
        slope = min(max(slope, steepest / 1000), steepest)
        return max(0.0, mean_y - slope * mean_x), slope
