"""Where the time of a step goes: from what each rank recorded, to a table and a picture.

Pure. An all-reduce ends when the last rank has come to it, so its time has parts: waiting for the slowest
rank, the wire, and turning numbers into bytes and back. Clocks of different machines are compared by the
quickest of many exchanges, which is right to half of its round trip.
Knows times, and which experts there were; refuses to know how they were recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dure.engine.arrays import Times

__all__ = [
    "MOST_PASSES",
    "PARTS",
    "ExpertNotes",
    "RankInterval",
    "RankTrace",
    "StepTrace",
    "chrome_events",
    "last_experts",
    "last_step",
    "parts_of",
]

MOST_PASSES = 8  # of a step, whose times are recorded: llama.cpp divides long prompts
PARTS = ("attention", "feed_forward", "head", "encode", "wait", "wire", "between")


@dataclass(frozen=True)
class ExpertNotes:
    """Which experts a step's first token had: their numbers, in order, for each layer (none: a layer
    without experts). n_experts: that a layer has; 0 if nothing was noted.
    """

    n_experts: int = 0
    chosen: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class StepTrace:
    """One step on one rank, seconds of its machine's clock.

    reductions: float64 [n, 4], when each all-reduce began, was encoded, had arrived and ended.
    """

    begun: float
    ended: float
    reductions: Times
    experts: ExpertNotes = ExpertNotes()


@dataclass(frozen=True)
class RankTrace:
    """The steps of one rank, or of a whole model. clock_s: its machine's clock less rank 0's."""

    clock_s: float
    steps: tuple[StepTrace, ...]

    def on_one_clock(self) -> RankTrace:
        """Return the same by rank 0's clock."""
        by = self.clock_s
        moved = (
            replace(s, begun=s.begun - by, ended=s.ended - by, reductions=s.reductions - by)
            for s in self.steps
        )
        return RankTrace(0.0, tuple(moved))


@dataclass(frozen=True)
class RankInterval:
    """What a rank did from begun to ended, seconds; in a layer of a step, None outside of the layers."""

    part: str
    begun: float
    ended: float
    layer: int | None = None


def parts_of(ranks: Sequence[RankTrace]) -> list[dict[str, float]]:
    """Return for every rank the mean seconds that a step spent in each of `PARTS`."""
    return [
        {part: sum(i.ended - i.begun for i in own if i.part == part) / n for part in PARTS}
        for own, n in ((list(own), len(rank.steps)) for rank, own in _intervals(ranks))
    ]


def last_step(ranks: Sequence[RankTrace]) -> list[list[RankInterval]]:
    """Return for every rank what it did in the last step with sums, seconds from its beginning.

    Nothing if no step had any.
    """
    last = _last_whole(ranks)
    if last is None:
        return []
    alone = [RankTrace(rank.clock_s, (rank.steps[last],)) for rank in ranks]
    begun = min(rank.on_one_clock().steps[0].begun for rank in alone)
    return [
        [RankInterval(i.part, i.begun - begun, i.ended - begun, i.layer) for i in own]
        for _, own in _intervals(alone)
    ]


def last_experts(ranks: Sequence[RankTrace]) -> list[ExpertNotes]:
    """Return for every rank which experts the first token of the same step had; nothing as there."""
    last = _last_whole(ranks)
    return [] if last is None else [rank.steps[last].experts for rank in ranks]


def _last_whole(ranks: Sequence[RankTrace]) -> int | None:
    whole = [i for i, step in enumerate(ranks[0].steps) if len(step.reductions)]
    return whole[-1] if whole else None


def chrome_events(ranks: Sequence[RankTrace], hosts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the same as events of Chrome's trace format (microseconds): open it in Perfetto."""
    first = min(rank.on_one_clock().steps[0].begun for rank in ranks)
    events: list[dict[str, Any]] = []
    for n, ((_, own), host) in enumerate(zip(_intervals(ranks), hosts, strict=True)):
        events.append(
            {"ph": "M", "name": "process_name", "pid": n, "args": {"name": f"rank {n} on {host}"}}
        )
        events += [_event(interval, n, first) for interval in own]
    return events


def _event(interval: RankInterval, rank: int, first: float) -> dict[str, Any]:
    event: dict[str, Any] = {
        "ph": "X",
        "name": interval.part.replace("_", " "),
        "cat": "wait" if interval.part in {"wait", "between"} else "work",
        "pid": rank,
        "tid": 0,
        "ts": round(1e6 * (interval.begun - first), 3),
        "dur": round(1e6 * (interval.ended - interval.begun), 3),
    }
    return event if interval.layer is None else {**event, "args": {"layer": interval.layer}}


def _intervals(ranks: Sequence[RankTrace]) -> Iterator[tuple[RankTrace, Iterator[RankInterval]]]:
    """Yield every rank with its intervals, by one clock."""
    alike = [rank.on_one_clock() for rank in ranks]
    ready = [  # when the last rank had its part of each all-reduce ready
        np.max([rank.steps[i].reductions[:, 1] for rank in alike], axis=0)
        for i in range(len(alike[0].steps))
    ]
    for rank in alike:
        yield rank, _intervals_of(rank, ready)


def _intervals_of(rank: RankTrace, ready: Sequence[Times]) -> Iterator[RankInterval]:
    before = None
    for step, last in zip(rank.steps, ready, strict=True):
        if before is not None:
            yield RankInterval("between", before, step.begun)
        at = step.begun
        for i, ((begun, encoded, arrived, ended), all_ready) in enumerate(
            zip(step.reductions, last, strict=True)
        ):
            layer, is_second = divmod(i, 2)
            yield RankInterval("feed_forward" if is_second else "attention", at, begun, layer)
            yield RankInterval("encode", begun, encoded, layer)
            waited = min(max(encoded, all_ready), arrived)
            yield RankInterval("wait", encoded, waited, layer)
            yield RankInterval("wire", waited, arrived, layer)
            yield RankInterval("encode", arrived, ended, layer)
            at = ended
        yield RankInterval("head", at, step.ended)
        before = step.ended
