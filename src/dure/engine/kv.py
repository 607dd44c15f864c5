"""Changes of the KV cache: what the scheduler decides, the ranks are sent, and llama.cpp is asked for.

Knows sequences and positions. Refuses to know how a cache holds them, and who decides.
"""

from __future__ import annotations

import msgspec

__all__ = ["Clear", "Copy", "Forget", "KvOp", "Swap"]


class _Change(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class Forget(_Change, frozen=True):
    """Forget a sequence's positions from `start` on; all of them by default."""

    sequence: int
    start: int = 0


class Clear(_Change, frozen=True):
    """Forget all positions of every sequence."""


class Copy(_Change, frozen=True):
    """Copy the first n positions of a sequence to an empty one; all of them if n is None."""

    source: int
    target: int
    n: int | None = None


class Swap(_Change, frozen=True):
    """Let two sequences hold what the other held."""

    sequence: int
    other: int


KvOp = Forget | Clear | Copy | Swap
"""A change of the KV cache, made before a step's tokens are decoded. It crosses processes as it is."""
