"""What a pull tells while it goes on: the seam between moving bytes and showing it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Silent", "Watcher"]


class Watcher(Protocol):
    """Is told what happens; it must return quickly and not raise."""

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """A file begins, `done_bytes` of it being here already; or begins again."""

    def advance(self, n_bytes: int) -> None:
        """More bytes of the current file have come."""

    def note(self, text: str) -> None:
        """Something a person should know, in one sentence."""


class Silent:
    """A watcher that says nothing."""

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Say nothing."""

    def advance(self, n_bytes: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""
