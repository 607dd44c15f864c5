"""Writes rules for one of many texts, so that texts that begin alike share rules.

llama.cpp follows every alternative of a rule on its own, for every candidate token. Here the alternatives
at any point are the characters that may come next, however many texts there are.
Knows texts and what follows each. Refuses to know JSON.
Source of the tree: D. J. Bernstein, "Crit-bit trees".
"""

from __future__ import annotations

from dataclasses import dataclass

from dure.chat.json_schema.rules import Rules, any_of, literal, sequence

__all__ = ["Texts"]

_END = "\0"  # behind every text, so that none is the beginning of another

_Bit = tuple[int, int]  # a character's index, and a bit of it, negative: the earlier is the smaller


@dataclass(frozen=True, eq=False)
class _Leaf:
    text: str
    following: str


@dataclass(eq=False)
class _Fork:
    """Texts that are alike before a bit: those without it, those with it. rule: its name, once written."""

    bit: _Bit
    sides: tuple[_Node, _Node]
    text: str  # one of them
    rule: str = ""


_Node = _Leaf | _Fork


class Texts:
    """A set of texts, each with an expression for what follows it.

    A set that grows shares what it had: only the rules on the way to the new text are written anew.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._root: _Node | None = None

    def add(self, text: str, following: str = "") -> None:
        """Add a text that is not there yet."""
        new: _Node = _Leaf(text + _END, following)
        if self._root is None:
            self._root = new
            return
        path, node = list[tuple[_Fork, bool]](), self._root
        while isinstance(node, _Fork):
            path.append((node, _has(new.text, node.bit)))
            node = node.sides[path[-1][1]]
        bit = _first_difference(node.text, new.text)
        while path and path[-1][0].bit > bit:
            node = path.pop()[0]
        new = _fork(bit, node, new, _has(new.text, bit))
        for fork, has in reversed(path):
            new = _fork(fork.bit, fork.sides[not has], new, has)
        self._root = new

    def expression(self) -> str:
        """Return an expression for one of the texts and what follows it, "" if there are none."""
        if self._root is None:
            return ""
        unwritten = [self._root]
        while unwritten:
            node = unwritten[-1]
            below = node.sides if isinstance(node, _Fork) and not node.rule else ()
            if missing := [n for n in below if isinstance(n, _Fork) and not n.rule]:
                unwritten += missing
                continue
            unwritten.pop()
            if isinstance(node, _Fork) and not node.rule:
                sides = [_after(side, node.bit[0]) for side in node.sides]
                node.rule = self._rules.add("part", any_of(sides, group=False))
        return _after(self._root, 0)


def _fork(bit: _Bit, other: _Node, new: _Node, has: bool) -> _Fork:
    """Return the fork of a node and a new one, which has the bit or not."""
    return _Fork(bit, (other, new) if has else (new, other), new.text)


def _after(node: _Node, start: int) -> str:
    """Return an expression for a node's texts, without their first `start` characters."""
    if isinstance(node, _Leaf):
        stop, following = len(node.text) - len(_END), node.following
    else:
        stop, following = node.bit[0], node.rule
    return sequence(literal(node.text[start:stop]) if stop > start else "", following)


def _has(text: str, bit: _Bit) -> bool:
    index, value = bit
    return index < len(text) and bool(ord(text[index]) & -value)


def _first_difference(a: str, b: str) -> _Bit:
    index = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return index, -(1 << ((ord(a[index]) ^ ord(b[index])).bit_length() - 1))
