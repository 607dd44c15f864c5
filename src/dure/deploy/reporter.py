"""What a start reports while it goes on: its events, what takes long, and warnings.

Knows the words. Refuses to know terminals and processes: a `Reporter` shows them or passes them on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Protocol

__all__ = ["EngineEvent", "Reporter", "SilentReporter"]


class EngineEvent(StrEnum):
    """What leads an engine from one state to another."""

    GATHERS = "nodes are looked for"
    PLACES = "enough nodes are there"
    LACKS = "too little memory without the missing nodes"
    SENDS = "each machine's part is known"
    LOADS = "every machine has its part"
    LOADED = "every rank is ready"
    LOST = "the engine ended"
    RESTARTS = "it is started again"
    GIVES_UP = "starts have failed repeatedly"
    STOPS = "the user stops it"
    BREAKS = "a bug ends the supervision"


class Reporter(Protocol):
    """Receives the progress of a start, and its warnings."""

    def cutting(
        self, name: str, total_bytes: int, /
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Report that a model is being cut; the function takes the bytes done since its last call."""

    def loading(self, what: str, /) -> AbstractContextManager[Callable[[float], None]]:
        """Report that weights are being loaded; the function takes the part done, 0 to 1."""

    def doing(self, what: str, /) -> AbstractContextManager[Callable[[float], None]]:
        """Report that something else takes long; the function takes the part done, 0 to 1."""

    def event(self, event: EngineEvent, /) -> None:
        """Report how far the start of the engine has come."""

    def news(self, text: str, /) -> None:
        """Report what happened to a machine."""

    def warn(self, text: str, /) -> None:
        """Report what is right, but slower than it could be."""


class SilentReporter:
    """Drops every report."""

    def cutting(
        self, _name: str, _total_bytes: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Drop it."""
        return nullcontext(lambda _: None)

    def loading(self, _what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Drop it."""
        return nullcontext(lambda _: None)

    def doing(self, _what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Drop it."""
        return nullcontext(lambda _: None)

    def event(self, _event: EngineEvent) -> None:
        """Drop it."""

    def news(self, _text: str) -> None:
        """Drop it."""

    def warn(self, _text: str) -> None:
        """Drop it."""
