"""Decide whether a measured speed can be believed, or is measured again. Pure arithmetic.

A figure of a second may be that of a machine which did something else just then. Refuses to know how speeds
are measured, and where they are kept.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

__all__ = ["KEPT", "alike", "spread_of", "wants_more"]

KEPT = 5  # samples of a machine: the latest
STEADY = 1 / 3  # the largest spread that is believed: of two, one is twice the other
FAR = 2.0  # times as fast, or as slow, as was expected
SURE = 3  # samples of one time, the median of which is believed: one of them may be bad


def spread_of(samples: Sequence[float]) -> float:
    """Return the median distance from the median, as a part of it.

    One bad sample of several makes no spread.
    """
    middle = statistics.median(samples)
    return statistics.median(abs(sample - middle) for sample in samples) / middle


def wants_more(
    samples: Sequence[float], before: Sequence[float] = (), equals: Sequence[float] = ()
) -> bool:
    """Return whether another sample of a speed is needed.

    before: older samples. equals: the speeds of machines that should be as fast; the fastest counts, as
    what disturbs a measurement makes a machine look slower. The first sample is believed if it is near to
    what was expected, else a second is taken. If they differ much, or are far from that, a third decides.
    """
    if not samples or len(samples) >= SURE:
        return not samples
    expected = [*([statistics.median(before)] if before else []), *sorted(equals)[-1:]]
    middle = statistics.median(samples)
    is_expected = any(1 / FAR <= middle / one <= FAR for one in expected)
    if spread_of([*before, *samples][-KEPT:]) > STEADY:
        return True
    return not is_expected and (len(samples) == 1 or bool(expected))


def alike(
    name: str, kinds: Mapping[str, object], speeds: Mapping[str, Sequence[float]]
) -> list[float]:
    """Return the median speeds of the other machines of the same kind that have samples."""
    return [
        statistics.median(samples)
        for other, samples in speeds.items()
        if other != name and samples and other in kinds and kinds[other] == kinds.get(name)
    ]
