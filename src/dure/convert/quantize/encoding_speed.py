"""How fast this machine encodes each type: a look of a moment, to say how long a command will take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import numpy as np

from dure.model.ggml import quantize, type_named

__all__ = ["encoding_s", "weights_per_s"]

_ROWS, _WIDTH = 4, 4096


def weights_per_s(types: Iterable[str]) -> dict[str, float]:
    """Return how many weights one thread encodes in a second, by type."""
    rows = np.random.default_rng(0).normal(0, 0.02, (_ROWS, _WIDTH)).astype(np.float32)
    importance = np.ones(_WIDTH, np.float32)
    found = {}
    for name in types:
        type_ = type_named(name)
        quantize(rows[:1], type_, importance)  # llama.cpp makes its tables
        begun = time.perf_counter()
        quantize(rows, type_, importance)
        found[name] = rows.size / (time.perf_counter() - begun)
    return found


def encoding_s(weights: Mapping[str, int], speeds: Mapping[str, float], threads: int) -> float:
    """Return the seconds that weights take to encode, by type."""
    return sum(n / speeds[name] for name, n in weights.items()) / threads
