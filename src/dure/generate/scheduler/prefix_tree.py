"""A radix tree over token ids: which of many cached sequences has the longest prefix of a prompt.

Pure. Knows sequences of tokens and their keys; refuses to know where they are cached.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dure.engine.adapters import AdapterSet

__all__ = ["PrefixForest", "PrefixTree", "common_length"]

Key = TypeVar("Key", bound=Hashable)
_INT32 = "i"  # four bytes a token: an idle server may remember a million of them


def common_length(a: Sequence[object], b: Sequence[object]) -> int:
    """Return the length of the longest common prefix of two sequences."""
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
    """A node. tokens: those from its parent to here. keys: those whose sequences end here."""

    tokens: array[int]
    children: dict[int, _Node[Key]] = field(default_factory=dict)
    keys: dict[Key, None] = field(default_factory=dict)

    def any_key(self) -> Key:
        """Return a key whose sequence ends here or further down: the latest that was put in."""
        node = self
        while not node.keys:
            node = next(reversed(node.children.values()))
        return next(reversed(node.keys))


class PrefixTree(Generic[Key]):
    """A sequence of tokens for each key."""

    def __init__(self) -> None:
        self._root: _Node[Key] = _Node(array(_INT32))
        self._sequences: dict[Key, array[int]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def tokens(self, key: Key) -> list[int]:
        """Return a key's sequence; raises KeyError."""
        return self._sequences[key].tolist()

    def length(self, key: Key) -> int:
        """Count the tokens of a key's sequence; raises KeyError."""
        return len(self._sequences[key])

    def put(self, key: Key, tokens: Sequence[int]) -> None:
        """Set a key's sequence; an empty one removes the key."""
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
        """Remove a key; nothing happens if it is not there."""
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
        """Return the key that has the longest prefix of `tokens`, and its length; None if none has any."""
        prompt = array(_INT32, tokens)
        node, n = self._root, 0
        while (child := node.children.get(prompt[n]) if n < len(prompt) else None) is not None:
            n_same = common_length(child.tokens, prompt[n : n + len(child.tokens)])
            node, n = child, n + n_same
            if n_same < len(child.tokens):
                break
        return (node.any_key(), n) if n else None

    def beginnings(self, tokens: Sequence[int]) -> Iterator[tuple[Key, int]]:
        """Yield every key whose whole sequence begins `tokens`, with its length; the shortest first."""
        prompt = array(_INT32, tokens)
        node, n = self._root, 0
        while (child := node.children.get(prompt[n]) if n < len(prompt) else None) is not None:
            if child.tokens != prompt[n : n + len(child.tokens)]:
                return
            node, n = child, n + len(child.tokens)
            for key in node.keys:
                yield key, n

    def _split(self, parent: _Node[Key], node: _Node[Key], n: int) -> _Node[Key]:
        upper: _Node[Key] = _Node(node.tokens[:n], {node.tokens[n]: node})
        parent.children[node.tokens[0]] = upper
        node.tokens = node.tokens[n:]
        return upper

    def _dissolve(self, parent: _Node[Key], node: _Node[Key]) -> None:
        """Remove a node that no sequence ends at and that does not branch."""
        del parent.children[node.tokens[0]]
        for child in node.children.values():
            child.tokens = node.tokens + child.tokens
            parent.children[child.tokens[0]] = child


class PrefixForest(Generic[Key]):
    """A sequence of tokens for each key. What is computed with some adapters is not found for others."""

    def __init__(self) -> None:
        self._trees: dict[AdapterSet, PrefixTree[Key]] = {}
        self._adapters: dict[Key, AdapterSet] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._adapters

    def adapters(self, key: Key) -> AdapterSet:
        """Return what a key's sequence was computed with; raises KeyError."""
        return self._adapters[key]

    def tokens(self, key: Key) -> list[int]:
        """Return a key's sequence; raises KeyError."""
        return self._trees[self._adapters[key]].tokens(key)

    def length(self, key: Key) -> int:
        """Count the tokens of a key's sequence; raises KeyError."""
        return self._trees[self._adapters[key]].length(key)

    def put(self, key: Key, tokens: Sequence[int], adapters: AdapterSet) -> None:
        """Set a key's sequence; an empty one removes the key."""
        self.remove(key)
        if tokens:
            self._trees.setdefault(adapters, PrefixTree()).put(key, tokens)
            self._adapters[key] = adapters

    def remove(self, key: Key) -> None:
        """Remove a key; nothing happens if it is not there."""
        if (adapters := self._adapters.pop(key, None)) is not None:
            self._trees[adapters].remove(key)
            if not len(self._trees[adapters]):
                del self._trees[adapters]

    def longest(self, tokens: Sequence[int], adapters: AdapterSet) -> tuple[Key, int] | None:
        """Return what `PrefixTree.longest` does, of the sequences of a set."""
        tree = self._trees.get(adapters)
        return tree.longest(tokens) if tree is not None else None

    def beginnings(self, tokens: Sequence[int], adapters: AdapterSet) -> Iterator[tuple[Key, int]]:
        """Yield what `PrefixTree.beginnings` does, of the sequences of a set."""
        tree = self._trees.get(adapters)
        return tree.beginnings(tokens) if tree is not None else iter(())
