"""What must be done to the KV cache and to the store of prefixes, as values.

Knows what each action needs to be true before it. Refuses to know who carries it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dure.engine.kv import KvOp

__all__ = ["Action", "DropPrefix", "LoadPrefix", "StorePrefix", "prefix_key"]


@dataclass(frozen=True)
class StorePrefix:
    """Write all tokens of a slot to the store."""

    slot: int
    key: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class LoadPrefix:
    """Read a stored prefix of n_stored positions into an empty slot, and keep the first n of them.

    state: the kept state after these n; "" if the prefix can be cut back to them without.
    """

    key: str
    slot: int
    n_stored: int
    n: int
    state: str = ""


@dataclass(frozen=True)
class DropPrefix:
    """Delete a prefix from the store."""

    key: str


Action = KvOp | StorePrefix | LoadPrefix | DropPrefix


def prefix_key(tokens: Sequence[int]) -> str:
    """Return the key of a stored prefix: the hash of its tokens."""
    return hashlib.blake2b(np.array(tokens, np.int32).tobytes(), digest_size=16).hexdigest()
