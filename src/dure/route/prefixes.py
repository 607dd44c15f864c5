"""Guesses what an upstream's prefix cache holds: the beginnings of prompts that it has read lately.

Knows prompts by chained hashes of their blocks, never as text. What was read longest ago is forgotten
first, as caches do it. Refuses to know tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

__all__ = ["Prefixes", "block_ends", "prefix_hashes"]

_SMALL, _LARGE = 256, 4096  # bytes of a block
_N_SMALL = 64


def block_ends(n_bytes: int) -> list[int]:
    """Return where the blocks of a prompt end; what is left over after the last is no block."""
    of_small = _N_SMALL * _SMALL
    small = range(_SMALL, min(n_bytes, of_small) + 1, _SMALL)
    return [*small, *range(of_small + _LARGE, n_bytes + 1, _LARGE)]


def prefix_hashes(prompt: bytes) -> list[bytes]:
    """Return a hash of everything up to each block's end."""
    chained, start, found = b"", 0, []
    for end in block_ends(len(prompt)):
        chained = hashlib.blake2b(chained + prompt[start:end], digest_size=8).digest()
        found.append(chained)
        start = end
    return found


class Prefixes:
    """The beginnings of prompts that an upstream has read. most_bytes: what its cache holds."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._sizes: OrderedDict[bytes, int] = OrderedDict()
        self._n_bytes = 0

    def add(self, hashes: Sequence[bytes]) -> None:
        """Note that it has read a prompt."""
        ends = block_ends(_bytes_of(len(hashes)))
        for index in range(len(hashes) - 1, -1, -1):  # beginnings are forgotten last
            size = ends[index] - (ends[index - 1] if index else 0)
            self._n_bytes += size - self._sizes.pop(hashes[index], 0)
            self._sizes[hashes[index]] = size
        while self._n_bytes > self.most_bytes and self._sizes:
            self._n_bytes -= self._sizes.popitem(last=False)[1]

    def known_bytes(self, hashes: Sequence[bytes]) -> int:
        """Return how much of a prompt's beginning it has read, bytes."""
        known = next((i for i, one in enumerate(hashes) if one not in self._sizes), len(hashes))
        return _bytes_of(known)

    def clear(self) -> None:
        """Forget all: it has been started anew."""
        self._sizes.clear()
        self._n_bytes = 0


def _bytes_of(n_blocks: int) -> int:
    return min(n_blocks, _N_SMALL) * _SMALL + max(0, n_blocks - _N_SMALL) * _LARGE
