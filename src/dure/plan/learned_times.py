"""Learns from runs what a token takes in a model: how long each type really takes, and the rest. Pure.

A type that was measured alone is quicker or slower among others, and a token has work besides reading
weights. A run shows only the sum of all that. The likeliest explanation counts: the least squares of what
the runs do not fit, and of how far factors and rest are from what was expected.
Refuses to know models, and how a run is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

__all__ = ["LearnedTimes", "ShownRun", "learned_from"]

_FACTOR_DOUBT = 0.15  # of a type's time: what the model's shape may change
_REST_DOUBT = 0.4  # of a token: what the rest may be
_RUN_DOUBT = 0.01  # of a token: what two runs differ by
_LEAST_FACTOR, _MOST_FACTOR = 0.25, 4.0  # beyond, a run was disturbed


class ShownRun(msgspec.Struct, frozen=True):
    """A run. expected_s: of a token, by type, on the machine that is slowest. token_s: what it took."""

    expected_s: dict[str, float]
    token_s: float


class LearnedTimes(msgspec.Struct, frozen=True):
    """Factors of the expected seconds, by type, and the seconds of a token besides reading weights."""

    factors: Mapping[str, float]
    rest_s: float

    def speeds(self, bytes_per_s: Mapping[str, float]) -> dict[str, float]:
        """Return what is read of each type in a second, by what was learned."""
        return {name: speed / self.factors.get(name, 1.0) for name, speed in bytes_per_s.items()}


def learned_from(runs: Sequence[ShownRun], rest_s: float = 0.0) -> LearnedTimes:
    """Return what these runs say. rest_s: what the rest was thought to be before."""
    if not runs:
        return LearnedTimes({}, rest_s)
    types = sorted(set[str]().union(*(run.expected_s for run in runs)))
    unit = float(np.median([run.token_s for run in runs]))
    rows = [
        [run.expected_s.get(name, 0.0) / run.token_s for name in types] + [unit / run.token_s]
        for run in runs
    ]
    doubts = np.array([_FACTOR_DOUBT] * len(types) + [_REST_DOUBT])
    before = np.array([1.0] * len(types) + [rest_s / unit])
    matrix = np.vstack([np.array(rows) / _RUN_DOUBT, np.diag(1 / doubts)])
    wanted = np.concatenate([np.full(len(runs), 1 / _RUN_DOUBT), before / doubts])
    found = np.linalg.lstsq(matrix, wanted)[0]
    if found[-1] < 0:
        found = np.append(np.linalg.lstsq(matrix[:, :-1], wanted)[0], 0.0)
    factors = np.clip(found[:-1], _LEAST_FACTOR, _MOST_FACTOR)
    return LearnedTimes(dict(zip(types, map(float, factors), strict=True)), float(found[-1]) * unit)
