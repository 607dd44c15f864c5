"""What must be done to the KV cache and to the store of prefixes, as values.

Knows what each action needs to be true before it. Refuses to know who carries it out.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.engine.kv import KvOp

__all__ = ["Action", "DropPrefix", "LoadPrefix", "StorePrefix", "adapters_of", "prefix_key"]


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


_FLOAT = struct.Struct(">f")
Action = KvOp | StorePrefix | LoadPrefix | DropPrefix


def prefix_key(tokens: Sequence[int], adapters: AdapterSet = NO_ADAPTERS) -> str:
    """Return the key of a stored prefix: the hash of its tokens, and the adapters it was computed with."""
    digest = hashlib.blake2b(np.array(tokens, np.int32).tobytes(), digest_size=16).hexdigest()
    return "-".join(
        [digest, *(f"{number}x{_FLOAT.pack(scale).hex()}" for number, scale in adapters)]
    )


def adapters_of(key: str) -> AdapterSet:
    """Return the adapters that a key names. Raises ValueError if it is none."""
    named = [part.partition("x") for part in key.split("-")[1:]]
    return tuple((int(n), _FLOAT.unpack(bytes.fromhex(scale))[0]) for n, _, scale in named)
