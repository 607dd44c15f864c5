"""The last day: how fast the model was, how warm the machines were. A small ring, a point a minute.

Knows what a point holds. Refuses to know how it is drawn, who measures, and where points are kept.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dure.cluster.root.survey import NodeReport
from dure.generate.request import EngineStats

__all__ = ["DAY_S", "EVERY_S", "LOOKS", "History", "NodePoint", "Point", "rates"]

EVERY_S = 60.0
LOOKS = 4  # at the watts, for each point
DAY_S = 24 * 3600.0
_KEPT = 24 * 60


class NodePoint(msgspec.Struct, frozen=True):
    """A machine at a moment. None: it has no such sensor."""

    temperature_c: float | None
    throttled: bool
    load: float
    watts: float | None = None  # mean of the looks in this minute


class Point(msgspec.Struct, frozen=True):
    """A minute. at: its end, seconds since 1970; speeds: tokens a second while there was work, else 0."""

    at: float
    prompt_per_s: float
    generated_per_s: float
    running: int
    waiting: int
    nodes: dict[str, NodePoint]

    @property
    def joules_per_token(self) -> float | None:
        """What a generated token took, prompts and pauses included; None if a machine tells no watts."""
        watts = [node.watts for node in self.nodes.values()]
        known = [one for one in watts if one is not None]
        if not known or len(known) < len(watts) or not self.generated_per_s:
            return None
        return sum(known) / self.generated_per_s


def rates(before: EngineStats, now: EngineStats, seconds: float) -> tuple[float, float]:
    """Return tokens a second of prompts and of answers from one moment to another.

    An engine that was started anew counts from 0.
    """
    if seconds <= 0:
        return 0.0, 0.0
    pairs = (
        (before.prompt_tokens, now.prompt_tokens),
        (before.generated_tokens, now.generated_tokens),
    )
    prompt, generated = (
        (late - early if late >= early else late) / seconds for early, late in pairs
    )
    return prompt, generated


class History:
    """The points of the last day. before: those of an earlier server, oldest first."""

    def __init__(self, before: Iterable[Point] = ()) -> None:
        self._points: deque[Point] = deque(before, maxlen=_KEPT)
        self._n_added = 0
        self._before, self._at = EngineStats(), time.monotonic()
        self._throttled: dict[str, float] = {}
        self._watts: dict[str, list[float]] = {}

    @property
    def points(self) -> list[Point]:
        """Return them, oldest first."""
        return list(self._points)

    def look(self, reports: Sequence[NodeReport]) -> None:
        """Note what the machines draw, for the next point."""
        for one in reports:
            if one.health is not None and (watts := one.health.power.watts) is not None:
                self._watts.setdefault(one.member.name, []).append(watts)

    def add(self, stats: EngineStats, reports: Sequence[NodeReport]) -> None:
        """Add a point of now, and forget what is more than a day before it."""
        at, now = time.monotonic(), time.time()
        prompt, generated = rates(self._before, stats, at - self._at)
        self._before, self._at = stats, at
        self.throttled_since(reports)
        nodes = {
            (name := one.member.name): NodePoint(
                one.health.temperature_c,
                bool(one.health.throttled),
                one.health.load,
                statistics.fmean(self._watts[name]) if name in self._watts else None,
            )
            for one in reports
            if one.health is not None
        }
        self._watts = {}
        self._n_added += 1
        self._forget(now)
        self._points.append(Point(now, prompt, generated, stats.running, stats.waiting, nodes))

    def _forget(self, now: float) -> None:
        """Forget what is too old, and what has not happened yet since somebody set the clock back."""
        while self._points and self._points[0].at < now - DAY_S:
            self._points.popleft()
        while self._points and self._points[-1].at >= now:
            self._points.pop()

    def throttled_since(self, reports: Sequence[NodeReport]) -> Mapping[str, float]:
        """Return since when the machines that are throttled were first seen so, by name; since 1970."""
        names = [one.member.name for one in reports if one.health and one.health.throttled]
        now = time.time()
        self._throttled = {name: self._throttled.get(name, now) for name in names}
        return self._throttled

    @property
    def joules_per_token(self) -> float | None:
        """What a token of this server's last minute took; None if that is not known."""
        return self._points[-1].joules_per_token if self._n_added else None

    def shown(self) -> dict[str, Any]:
        """Return them as the page reads them, oldest first."""
        points = [
            {**msgspec.to_builtins(one), "joules_per_token": one.joules_per_token}
            for one in self._points
        ]
        return {"every_s": EVERY_S, "points": points}
