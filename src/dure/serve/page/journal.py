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

__all__ = ["Journal", "JournalLine", "Kind", "Level"]

Kind = Literal["engine", "cluster", "route", "model"]
Level = Literal["info", "warning", "error"]
_KEPT = 200  # of each kind
_WORDS: Mapping[str, tuple[Level, str, str]] = {  # event of a cluster: how grave, what, its cure
    "engine_started": ("info", "the model {model} started", ""),
    "engine_ended": ("error", "the engine ended: {reason}", ""),
    "answers": ("info", "{node} answers again", ""),
    "silent": ("error", "{node} does not answer: {reason}", "see `dure cluster status`"),
    "throttled": (
        "warning",
        "{node} runs slower than it could: {why}",
        "ask `dure doctor --cluster`",
    ),
    "unthrottled": ("info", "{node} runs at full speed again", ""),
    "hot": ("warning", "{node} is at {temperature_c} °C", "cool it: a heat sink, a fan"),
    "cooled": ("info", "{node} has cooled down", ""),
    "link_errors": (
        "warning",
        "{node}: {errors} errors on {device}",
        "change its cable or its port",
    ),
    "left_out": ("warning", "the model runs without {node}: {reason}", ""),
    "joined": ("info", "{node} joined", ""),
    "removed": ("warning", "{node} was removed", ""),
    "refused": ("warning", "{name} at {host} was refused: {reason}", ""),
    "moved": ("info", "{node} is at {host} now", ""),
    "waiting": ("warning", "waiting: {reason}", ""),
    "replayed": ("info", "interrupted answers go on after {replay_s} s", ""),
}


class JournalLine(msgspec.Struct, frozen=True):
    """Something that happened. n: which line it is; at: seconds since 1970."""

    n: int
    at: float
    kind: Kind
    level: Level
    text: str
    cure: str = ""


class Journal:
    """The last lines of each kind. Used from several threads."""

    def __init__(self) -> None:
        self._lines: dict[Kind, deque[JournalLine]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, kind: Kind, level: Level, text: str, cure: str = "", at: float = 0.0) -> None:
        """Write down what happened. at: seconds since 1970; 0: now."""
        with self._lock:
            line = JournalLine(next(self._numbers), at or time.time(), kind, level, text, cure)
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
            reason, seconds = record.extra.get("route_reason"), record.duration_s
            self.add("route", level, f"{record.path} to {target} ({reason}): {seconds:.1f} s")

    def add_cluster_events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Write down events of a cluster that people want to know of."""
        for event in events:
            at = event.get("time")
            if isinstance(at, float) and (found := _WORDS.get(str(event.get("event")))) is not None:
                level, text, cure = found
                facts = {name: _plain(value) for name, value in event.items()}
                self.add("cluster", level, text.format_map(_Known(facts)), cure, at)


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


class _Known(dict[str, Any]):
    """The facts of an event; what it does not tell is a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"
