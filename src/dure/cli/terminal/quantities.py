"""Reads sizes, times, speeds and prices as people write them: 10GB, 20min, 9tok/s, 300usd."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from dure.errors import UsageError

__all__ = ["bytes_of", "dollars_of", "seconds_of", "tokens_per_s_of"]

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z/]*)\s*")
_SIZES = {
    "": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "M": 1e6, "G": 1e9,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip
_TIMES = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600}
_SPEEDS = {"": 1, "tok/s": 1, "t/s": 1, "tokens/s": 1}
_PRICES = {"": 1, "usd": 1, "USD": 1}


def bytes_of(option: str, text: str) -> int:
    """Return a size in bytes: 10GB, 800MB, 9.5GiB. Raises UsageError that names the option."""
    return int(_quantity(option, text, _SIZES, "a size as in 10GB"))


def seconds_of(option: str, text: str) -> float:
    """Return a length of time in seconds: 90s, 20min, 1h. Raises UsageError."""
    return _quantity(option, text, _TIMES, "a time as in 20min")


def tokens_per_s_of(option: str, text: str) -> float:
    """Return a speed in tokens per second: 9tok/s. Raises UsageError."""
    return _quantity(option, text, _SPEEDS, "a speed as in 9tok/s")


def dollars_of(option: str, text: str) -> float:
    """Return a price in dollars: 300usd, $300. Raises UsageError."""
    return _quantity(option, text.removeprefix("$"), _PRICES, "a price as in 300usd")


def _quantity(option: str, text: str, units: Mapping[str, float], example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    value = float(match[1]) * units.get(match[2], math.nan) if match else math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{option} {text}", f"give {example}")
    return value
