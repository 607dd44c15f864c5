"""What happened lately, in words: to the engine, to the machines, to requests that were routed.

A small ring in memory; the cluster's own events are read from its log. Refuses to know how it is shown.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from dure.http.access_log import RequestRecord
from dure.serve.page.sentences import SaidSentence, said

__all__ = ["Journal", "JournalLine", "Kind", "Level"]

Kind = Literal["engine", "cluster", "route", "model"]
Level = Literal["info", "warning", "error"]
_KEPT = 200  # of each kind
_LEVELS: Mapping[str, Level] = {  # of a cluster's events that people want to know of
    "engine_started": "info",
    "engine_ended": "error",
    "answers": "info",
    "silent": "error",
    "throttled": "warning",
    "unthrottled": "info",
    "hot": "warning",
    "cooled": "info",
    "link_errors": "warning",
    "left_out": "warning",
    "joined": "info",
    "removed": "warning",
    "refused": "warning",
    "moved": "info",
    "waiting": "warning",
    "replayed": "info",
}


class JournalLine(msgspec.Struct, frozen=True):
    """Something that happened. n: which line; at: seconds since 1970; the rest as in `SaidSentence`."""

    n: int
    at: float
    kind: Kind
    level: Level
    text: str
    cure: str = ""
    code: str = ""
    facts: Mapping[str, Any] = {}


class Journal:
    """The last lines of each kind. Used from several threads."""

    def __init__(self) -> None:
        self._lines: dict[Kind, deque[JournalLine]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, kind: Kind, level: Level, what: SaidSentence, at: float = 0.0) -> None:
        """Write down what happened. at: seconds since 1970; 0: now."""
        with self._lock:
            n, words = next(self._numbers), (what.text, what.cure, what.code, what.facts)
            line = JournalLine(n, at or time.time(), kind, level, *words)
            self._lines.setdefault(kind, deque(maxlen=_KEPT)).append(line)

    def since(self, n: int) -> list[JournalLine]:
        """Return the lines after line n, oldest first."""
        with self._lock:
            new = [line for lines in self._lines.values() for line in lines if line.n > n]
        return sorted(new, key=lambda line: line.n)

    def add_routed(self, record: RequestRecord) -> None:
        """Write down where a request went, if it was routed."""
        if (target := record.extra.get("route_target")) is not None:
            level: Level = "warning" if record.status >= 400 or not record.status else "info"
            facts = {
                "path": record.path,
                "target": target,
                "route": record.extra.get("route_reason"),
                "seconds": round(record.duration_s, 1),
            }
            self.add("route", level, said("routed", facts))

    def add_cluster_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Write down events of a cluster that people want to know of."""
        for event in events:
            at, code = event.get("time"), str(event.get("event"))
            if isinstance(at, float) and (level := _LEVELS.get(code)) is not None:
                facts = {name: event[name] for name in event if name not in ("time", "event")}
                self.add("cluster", level, said(code, facts), at)
