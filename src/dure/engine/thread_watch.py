"""Notices when ranks give up threads, or take them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["SHORT", "ThreadWatch"]

SHORT = 0.25  # of a thread's time, lost to other programs: more is no chance


class ThreadWatch:
    """Calls `changed` with how many threads each rank has given up, when that has changed."""

    def __init__(self) -> None:
        self._given_up: tuple[int, ...] = ()
        self.changed: Callable[[Sequence[int]], None] = lambda _given_up: None

    def see(self, given_up: Sequence[int]) -> None:
        """Look at a step's figures."""
        before, self._given_up = self._given_up, tuple(given_up)
        if self._given_up != before and any((*before, *given_up)):
            self.changed(self._given_up)
