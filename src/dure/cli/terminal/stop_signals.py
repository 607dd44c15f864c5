"""Lets Ctrl-C, and an end that a service manager asks for, wait for the work in hand."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

__all__ = ["StopSignals"]


class StopSignals:
    """Notes the first SIGINT or SIGTERM in its block; a second one does what it did before.

    hears_second: else it is nothing new, as for one of several processes: torchrun hands on what the
    terminal has sent already, the kernel tells of a parent's end once for each of its threads, and whoever
    has started the process ends it if it takes too long.
    """

    def __init__(self, *, hears_second: bool = True) -> None:
        self.number, self._hears_second = 0, hears_second
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def came(self) -> bool:
        """Return whether one came."""
        return self.number != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and self._hears_second:
            self._before[number](number, frame)
        self.number = number
