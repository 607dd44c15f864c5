"""Draws a line of values with braille characters: two points wide and four high in each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["braille_line"]

_BLANK = 0x2800
_DOTS = (
    (0x01, 0x08),
    (0x02, 0x10),
    (0x04, 0x20),
    (0x40, 0x80),
)  # rows from the top, left and right


def braille_line(values: Sequence[float], width: int, height: int) -> list[str]:
    """Return the lines of a picture, the highest value at its top. width, height: in characters."""
    columns, rows = _columns(values, 2 * width), 4 * height
    if not columns:
        return [""] * height
    low, high = min(columns), max(columns)
    cells = [[_BLANK] * width for _ in range(height)]
    for x, value in enumerate(columns):
        part = (high - value) / (high - low) if high > low else 0.5
        y = min(rows - 1, int(part * rows))
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    return ["".join(map(chr, line)) for line in cells]


def _columns(values: Sequence[float], most: int) -> list[float]:
    """Return at most so many values: the means of neighbours if there are more."""
    if len(values) <= most:
        return list(values)
    edges = [round(i * len(values) / most) for i in range(most + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
