"""Notices when ranks give up threads, or take them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["ThreadWatch"]


class ThreadWatch:
    """Calls `changed` with every rank's threads when they are not those of the step before.

    threads: that each rank was told to have.
    """

    def __init__(self, threads: Sequence[int]) -> None:
        self.threads = tuple(threads)
        self.changed: Callable[[Sequence[int]], None] = lambda _threads: None

    def see(self, threads: Sequence[int]) -> None:
        """Look at a step's threads."""
        if (seen := tuple(threads)) != self.threads:
            self.threads = seen
            self.changed(seen)
