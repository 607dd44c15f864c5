"""Where the time of a step goes: from what each rank noted, to a table and a picture.

Pure. A sum is over when the last rank has come to it, so its time is told apart: waiting for the slowest
rank, the wire, and turning numbers into bytes and back. Clocks of different machines are compared by the
quickest of many exchanges, which is right to half of its round trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MOST_PASSES", "RankTrace", "StepTrace", "Times", "chrome_events", "parts_of"]

Times = npt.NDArray[np.float64]
MOST_PASSES = 8  # of a step, whose times are kept: llama.cpp divides long prompts
PARTS = ("attention", "feed_forward", "head", "encode", "wait", "wire", "between")


@dataclass(frozen=True)
class StepTrace:
    """One step on one rank, seconds of its machine's clock.

    sums: float64 [n_sums, 4]: when each began, was encoded, had arrived and ended.
    """

    begun: float
    ended: float
    sums: Times


@dataclass(frozen=True)
class RankTrace:
    """The steps of one rank, or of a whole model. clock_s: its machine's clock less rank 0's."""

    clock_s: float
    steps: tuple[StepTrace, ...]

    def on_one_clock(self) -> RankTrace:
        """The same by rank 0's clock."""
        by = self.clock_s
        return RankTrace(
            0.0, tuple(StepTrace(s.begun - by, s.ended - by, s.sums - by) for s in self.steps)
        )


@dataclass(frozen=True)
class _Piece:
    """What a rank did from begun to ended, in a layer of a step (-1: in none)."""

    part: str
    begun: float
    ended: float
    layer: int = -1


def parts_of(ranks: Sequence[RankTrace]) -> list[dict[str, float]]:
    """Of every rank, the mean seconds that a step spent in each of `PARTS`."""
    return [
        {part: sum(p.ended - p.begun for p in pieces if p.part == part) / n for part in PARTS}
        for pieces, n in ((list(found), len(rank.steps)) for rank, found in _pieces(ranks))
    ]


def chrome_events(ranks: Sequence[RankTrace], hosts: Sequence[str]) -> list[dict[str, Any]]:
    """The same as events of Chrome's trace format (microseconds): open it in Perfetto."""
    first = min(rank.on_one_clock().steps[0].begun for rank in ranks)
    events: list[dict[str, Any]] = []
    for n, ((_, pieces), host) in enumerate(zip(_pieces(ranks), hosts, strict=True)):
        events.append(
            {"ph": "M", "name": "process_name", "pid": n, "args": {"name": f"rank {n} on {host}"}}
        )
        events += [
            {
                "ph": "X",
                "name": piece.part.replace("_", " "),
                "cat": "wait" if piece.part in {"wait", "between"} else "work",
                "pid": n,
                "tid": 0,
                "ts": round(1e6 * (piece.begun - first), 3),
                "dur": round(1e6 * (piece.ended - piece.begun), 3),
                **({"args": {"layer": piece.layer}} if piece.layer >= 0 else {}),
            }
            for piece in pieces
        ]
    return events


def _pieces(ranks: Sequence[RankTrace]) -> Iterator[tuple[RankTrace, Iterator[_Piece]]]:
    """Every rank with its pieces, by one clock."""
    alike = [rank.on_one_clock() for rank in ranks]
    ready = [  # when the last rank had its part of each sum ready
        np.max([rank.steps[i].sums[:, 1] for rank in alike], axis=0)
        for i in range(len(alike[0].steps))
    ]
    for rank in alike:
        yield rank, _pieces_of(rank, ready)


def _pieces_of(rank: RankTrace, ready: Sequence[Times]) -> Iterator[_Piece]:
    before = None
    for step, last in zip(rank.steps, ready, strict=True):
        if before is not None:
            yield _Piece("between", before, step.begun)
        at = step.begun
        for i, ((begun, encoded, arrived, ended), all_ready) in enumerate(
            zip(step.sums, last, strict=True)
        ):
            layer, is_second = divmod(i, 2)
            yield _Piece("feed_forward" if is_second else "attention", at, begun, layer)
            yield _Piece("encode", begun, encoded, layer)
            waited = min(max(encoded, all_ready), arrived)
            yield _Piece("wait", encoded, waited, layer)
            yield _Piece("wire", waited, arrived, layer)
            yield _Piece("encode", arrived, ended, layer)
            at = ended
        yield _Piece("head", at, step.ended)
        before = step.ended
