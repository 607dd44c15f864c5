"""Reports a start and a pull to Python's own logging, as the logger `dure`.

Warnings are shown unless the program says otherwise; progress only if it asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from dure.deploy.reporter import EngineEvent

__all__ = ["LogReporter", "LogWatcher", "log"]

log = logging.getLogger("dure")
PART = 0.1  # of a file, between two lines


class LogReporter:
    """Logs the stages of a start, and warnings."""

    def cutting(
        self, name: str, _total_bytes: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Log that a model is cut."""
        log.info("cutting %s", name)
        return nullcontext(lambda _: None)

    def loading(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Log that weights are loaded."""
        return self.doing(f"loading {what}")

    def doing(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Log another stage."""
        log.info("%s", what)
        return nullcontext(lambda _: None)

    def event(self, event: EngineEvent) -> None:
        """Log it in detail."""
        log.debug("%s", event)

    def news(self, text: str) -> None:
        """Log what happened to a machine."""
        log.warning("%s", text)

    def warn(self, text: str) -> None:
        """Log what works, but slower than it could."""
        log.warning("%s", text)


class LogWatcher:
    """Logs how far a pull is."""

    def __init__(self) -> None:
        self._name, self._size, self._done, self._told = "", 0, 0, 0.0

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Log the file that begins."""
        self._name, self._size, self._done, self._told = name, size_bytes or 0, done_bytes, 0.0
        log.info("pulling %s", name)

    def advance(self, n_bytes: int) -> None:
        """Log each tenth of a file."""
        self._done += n_bytes
        part = self._done / self._size if self._size else 0.0
        if part >= self._told + PART:
            self._told = part
            log.info("%s: %.0f %%", self._name, 100 * part)

    def note(self, text: str) -> None:
        """Log a sentence."""
        log.info("%s", text)
