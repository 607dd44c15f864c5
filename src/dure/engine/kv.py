"""Changes of the KV cache: what the scheduler decides, the ranks are sent, and llama.cpp is asked for.

Knows sequences and positions. Refuses to know how a cache holds them, and who decides.
"""

from __future__ import annotations

import msgspec

__all__ = ["Clear", "Copy", "DropState", "Forget", "KeepState", "KvOp", "RestoreState", "Swap"]


class _Change(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class Forget(_Change, frozen=True):
    """Forget a sequence's positions from `start` on; all of them by default."""

    sequence: int
    start: int = 0


class Clear(_Change, frozen=True):
    """Forget all positions of every sequence, and all kept states."""


class Copy(_Change, frozen=True):
    """Copy the first n positions of a sequence to an empty one; all of them if n is None."""

    source: int
    target: int
    n: int | None = None


class Swap(_Change, frozen=True):
    """Let two sequences hold what the other held."""

    sequence: int
    other: int


class KeepState(_Change, frozen=True):
    """Keep what is lost of a sequence when it goes on: windows and running states, as they are now.

    key: names the state on every rank.
    """

    sequence: int
    key: str


class RestoreState(_Change, frozen=True):
    """Cut a sequence back to its first n positions, after which a state was kept.

    The state may come from another sequence that began with the same tokens.
    """

    sequence: int
    key: str
    n: int


class DropState(_Change, frozen=True):
    """Delete a kept state."""

    key: str


KvOp = Forget | Clear | Copy | Swap | KeepState | RestoreState | DropState
"""A change of the KV cache, made before a step's tokens are decoded. It crosses processes as it is."""
