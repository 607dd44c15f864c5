"""Defines what a start reports: its events, the progress of long stages, and warnings.

Refuses to know terminals and processes: a `Reporter` shows reports or passes them on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Protocol

__all__ = ["EngineEvent", "Reporter", "SilentReporter"]


class EngineEvent(StrEnum):
    """An event that changes the state of an engine."""

    GATHERS = "nodes are polled"
    PLACES = "enough nodes answer"
    LACKS = "too little memory without the missing nodes"
    SENDS = "shares are decided"
    LOADS = "every machine has its weights"
    LOADED = "every rank is ready"
    LOST = "the engine ended"
    RESTARTS = "it restarts"
    GIVES_UP = "it keeps failing to start"
    STOPS = "the user stops it"
    BREAKS = "the supervisor has a bug"


class Reporter(Protocol):
    """Receives the reports of a start."""

    def cutting(
        self, name: str, total_bytes: int, /
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Report that a model is being cut; call the function with the bytes done since its last call."""

    def loading(self, what: str, /) -> AbstractContextManager[Callable[[float], None]]:
        """Report that weights are being loaded; call the function with the fraction done."""

    def doing(self, what: str, /) -> AbstractContextManager[Callable[[float], None]]:
        """Report another long stage; call the function with the fraction done."""

    def event(self, event: EngineEvent, /) -> None:
        """Report an event of the engine's start."""

    def news(self, text: str, /) -> None:
        """Report what happened to a machine."""

    def warn(self, text: str, /) -> None:
        """Report what works, but slower than it could."""


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
