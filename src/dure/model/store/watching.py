"""What a pull reports while it goes on: the seam between moving bytes and showing it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SilentWatcher", "Watcher"]


class Watcher(Protocol):
    """Gets what happens; every method must return quickly.

    What `advance` and `note` raise ends the pull: what has come stays, and the next one goes on from there.
    """

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Begin a file, of which `done_bytes` are here already; or begin it again."""

    def advance(self, n_bytes: int) -> None:
        """Count more bytes of the current file."""

    def note(self, text: str) -> None:
        """Report something a person should know, in one sentence."""


class SilentWatcher:
    """A watcher that says nothing."""

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Say nothing."""

    def advance(self, n_bytes: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""
