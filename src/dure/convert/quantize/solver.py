"""Chooses one option for every item, so that the whole costs least within limits. Exact, and pure.

Knows numbers alone: what an option costs, and how much it takes of each limit. Refuses to know tensors.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Limits", "Option", "Solution", "TooTightError", "solve"]

TIME_S = 60.0
_GAP = 1e-6  # of the cost, at which a choice counts as the best
# HiGHS keeps limits to 1e-6 and costs too, whatever their size: so both are given large numbers.
_LIMIT, _COST = 1e6, 1e4
_TOLERANCE = 1e-11  # of a limit


@dataclass(frozen=True)
class Option:
    """One way to have an item. cost: as small as can be. takes: of each limit, in their order."""

    name: str
    cost: float
    takes: tuple[float, ...]


@dataclass(frozen=True)
class Solution:
    """The option of every item, by the item's name. gap: how much less another choice might cost, as a
    part: 0 unless there was no time to show that there is none.
    """

    chosen: Mapping[str, Option]
    gap: float

    @property
    def cost(self) -> float:
        """Return the cost of the whole."""
        return sum(option.cost for option in self.chosen.values())

    def taken(self, limit: int) -> float:
        """Return what the whole takes of a limit."""
        return sum(option.takes[limit] for option in self.chosen.values())


class TooTightError(Exception):
    """No choice is within the limits. limit: the first that even the smallest options are beyond; None if
    each of them can be met, and not all at once. least: what these take of it.
    """

    def __init__(self, limit: int | None, least: float) -> None:
        super().__init__(limit, least)
        self.limit, self.least = limit, least


Limits = Sequence[float]


def solve(items: Mapping[str, Sequence[Option]], limits: Limits) -> Solution:
    """Choose an option for each item at the least cost, all together within each limit.

    Raises TooTightError.
    """
    if not items:
        return Solution({}, 0.0)
    _check_possible(items, limits)
    kinds: dict[tuple[Option, ...], list[str]] = defaultdict(list)
    for name, options in items.items():
        kinds[_useful(options)].append(name)
    for tightened in (0.0, _TOLERANCE):
        counts, gap = _solved(kinds, [limit * (1 - tightened) for limit in limits])
        chosen: dict[str, Option] = {}
        for (options, names), numbers in zip(kinds.items(), counts, strict=True):
            each = [one for one, n in zip(options, numbers, strict=True) for _ in range(n)]
            chosen |= dict(zip(names, each, strict=True))
        solution = Solution({name: chosen[name] for name in items}, gap)
        if all(solution.taken(i) <= limit for i, limit in enumerate(limits)):
            return solution
    raise AssertionError("a choice within tightened limits is within the limits")


def _check_possible(items: Mapping[str, Sequence[Option]], limits: Limits) -> None:
    for i, limit in enumerate(limits):
        least = sum(min(option.takes[i] for option in options) for options in items.values())
        if least > limit:
            raise TooTightError(i, least)


def _useful(options: Sequence[Option]) -> tuple[Option, ...]:
    """Return the options that no other is as good as in everything."""
    kept: list[Option] = []
    for one in sorted(options, key=lambda one: (one.cost, one.takes)):
        if not any(_covers(other, one) for other in kept):
            kept.append(one)
    return tuple(kept)


def _covers(one: Option, other: Option) -> bool:
    return one.cost <= other.cost and all(
        a <= b for a, b in zip(one.takes, other.takes, strict=True)
    )


def _solved(
    kinds: Mapping[tuple[Option, ...], Sequence[str]], limits: Limits
) -> tuple[list[list[int]], float]:
    """Return how often each option of each kind of items is taken, and the gap.

    An integer for each option of a kind; those of a kind add up to its items.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    counts = [len(names) for names in kinds.values()]
    options = [option for kind in kinds for option in kind]
    of_kind = np.repeat(np.arange(len(kinds)), [len(kind) for kind in kinds])
    columns = np.arange(len(options))
    each = csr_array((np.ones(len(options)), (of_kind, columns)))
    constraints = [LinearConstraint(each, counts, counts)]
    finite = [i for i, limit in enumerate(limits) if math.isfinite(limit)]
    if finite:
        scale = np.array([max(abs(limits[i]), 1e-300) for i in finite])
        takes = np.array([[option.takes[i] for option in options] for i in finite])
        constraints.append(LinearConstraint(_LIMIT * takes / scale[:, None], -np.inf, _LIMIT))
    costs = np.array([option.cost for option in options])
    with _silenced():
        found = milp(
            _COST * costs / (costs.max() or 1.0),
            integrality=np.ones(len(options)),
            bounds=Bounds(0, np.array(counts)[of_kind]),
            constraints=constraints,
            options={"time_limit": TIME_S, "mip_rel_gap": _GAP},
        )
    if found.x is None:
        raise TooTightError(None, 0.0)
    numbers = np.rint(found.x).astype(int)
    split = np.split(numbers, np.cumsum([len(kind) for kind in kinds])[:-1])
    return [[int(n) for n in part] for part in split], float(found.mip_gap or 0.0)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what C code writes to the standard output away from it, which a program may be reading.

    HiGHS in SciPy 1.17.1 writes a line there for some problems, whatever its options say.
    """
    c_library = ctypes.CDLL(None)
    c_library.fflush(None)
    output, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        c_library.fflush(None)  # into nothing too
        os.dup2(output, 1)
        os.close(output)
        os.close(nothing)
