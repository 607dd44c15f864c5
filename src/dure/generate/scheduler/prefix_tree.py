"""A radix tree over token ids: which of many cached sequences begins most like a prompt.

Pure. Knows sequences of tokens and the keys that hold them; refuses to know where they are held.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["PrefixTree", "common_length"]

Key = TypeVar("Key", bound=Hashable)
_INT32 = "i"  # four bytes a token: an idle server may remember a million of them


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin alike with."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass
class _Node(Generic[Key]):
    """The tokens from its parent to here. keys: whose sequences end here."""

    tokens: array[int]
    children: dict[int, _Node[Key]] = field(default_factory=dict)
    keys: dict[Key, None] = field(default_factory=dict)

    def any_key(self) -> Key:
        """A key whose sequence ends here or further down: the latest that was put in."""
        node = self
        while not node.keys:
            node = next(reversed(node.children.values()))
        return next(reversed(node.keys))


class PrefixTree(Generic[Key]):
    """Keys with a sequence of tokens each."""

    def __init__(self) -> None:
        self._root: _Node[Key] = _Node(array(_INT32))
        self._sequences: dict[Key, array[int]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def tokens(self, key: Key) -> list[int]:
        """A key's sequence; raises KeyError."""
        return self._sequences[key].tolist()

    def length(self, key: Key) -> int:
        """How many tokens a key's sequence has; raises KeyError."""
        return len(self._sequences[key])

    def put(self, key: Key, tokens: Sequence[int]) -> None:
        """Let a key hold a sequence, instead of what it held. An empty one removes it."""
        self.remove(key)
        if not tokens:
            return
        rest = array(_INT32, tokens)
        self._sequences[key] = rest
        node = self._root
        while rest:
            child = node.children.get(rest[0])
            if child is None:
                child = _Node(rest)
                node.children[rest[0]] = child
            n = common_length(child.tokens, rest)
            if n < len(child.tokens):
                child = self._split(node, child, n)
            node, rest = child, rest[n:]
        node.keys[key] = None

    def remove(self, key: Key) -> None:
        """Forget a key; nothing happens where it is not there."""
        tokens = self._sequences.pop(key, None)
        if tokens is None:
            return
        path, rest = [self._root], tokens
        while rest:
            path.append(path[-1].children[rest[0]])
            rest = rest[len(path[-1].tokens) :]
        del path[-1].keys[key]
        for parent, node in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
            if not node.keys and len(node.children) <= 1:
                self._dissolve(parent, node)

    def longest(self, tokens: Sequence[int]) -> tuple[Key, int] | None:
        """A key whose sequence begins like `tokens`, and for how many; None where none does."""
        wanted = array(_INT32, tokens)
        node, n = self._root, 0
        while (child := node.children.get(wanted[n]) if n < len(wanted) else None) is not None:
            same = common_length(child.tokens, wanted[n : n + len(child.tokens)])
            node, n = child, n + same
            if same < len(child.tokens):
                break
        return (node.any_key(), n) if n else None

    def _split(self, parent: _Node[Key], node: _Node[Key], n: int) -> _Node[Key]:
        upper: _Node[Key] = _Node(node.tokens[:n], {node.tokens[n]: node})
        parent.children[node.tokens[0]] = upper
        node.tokens = node.tokens[n:]
        return upper

    def _dissolve(self, parent: _Node[Key], node: _Node[Key]) -> None:
        """Take out a node that no sequence ends at and that does not branch."""
        del parent.children[node.tokens[0]]
        for child in node.children.values():
            child.tokens = node.tokens + child.tokens
            parent.children[child.tokens[0]] = child
