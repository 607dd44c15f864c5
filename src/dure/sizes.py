"""Sizes as people read them, in decimal units: the only place that writes them."""

from __future__ import annotations

__all__ = ["bytes_text", "compared"]

_UNITS = ("B", "kB", "MB", "GB", "TB")
_MOST_DIGITS = 12  # a byte, as a part of a terabyte


def bytes_text(n: float, digits: int = 1) -> str:
    """Return a number of bytes in the largest unit of which it is one at least."""
    size, unit = float(n), 0
    while unit + 1 < len(_UNITS) and round(abs(size), digits if unit else 0) >= 1000:
        size, unit = size / 1000, unit + 1
    return f"{size:.{digits if unit else 0}f} {_UNITS[unit]}"


def compared(one: float, other: float) -> tuple[str, str]:
    """Return two sizes, one of which is too large or too small: unlike sizes never look alike."""
    for digits in range(1, _MOST_DIGITS + 1):
        texts = bytes_text(one, digits), bytes_text(other, digits)
        if texts[0] != texts[1] or one == other:
            break
    return texts
