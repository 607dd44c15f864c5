"""Parses GBNF.

Knows llama.cpp's syntax. Refuses to know what a grammar is for. Source: llama.cpp `grammars/README.md`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from dure.errors import UsageError

__all__ = ["Characters", "Group", "Item", "Mark", "Reference", "Repeat", "Rule", "read_gbnf"]

DEPTH_LIMIT = 100  # nested groups


@dataclass(frozen=True)
class Characters:
    """One character within these ranges of code points; negated: outside them."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False


@dataclass(frozen=True)
class Mark:
    """One token of the vocabulary, by its text or number; with `!`, any other token."""

    text: str


@dataclass(frozen=True)
class Reference:
    """Whatever the rule of this name allows."""

    name: str


@dataclass(frozen=True)
class Repeat:
    """An item repeated `least` to `most` times; most None: no limit."""

    item: Item
    least: int
    most: int | None


@dataclass(frozen=True)
class Group:
    """One of several sequences."""

    options: Rule


Item = Characters | Mark | Reference | Repeat | Group
Rule = tuple[tuple[Item, ...], ...]  # any one of these sequences

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_TOKEN = re.compile(r"!?<[^>]*>")
_TIMES = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d*)\s*)?\}")
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([trn\\\"\[\]-]))", re.DOTALL
)
_PLAIN = re.compile(r"[^\"\\]+")
_SIMPLE: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_LETTERS = {"t": "\t", "r": "\r", "n": "\n"}


def read_gbnf(text: str) -> dict[str, Rule]:
    """Return the rules by name, in order. Raises UsageError naming the wrong line."""
    return _Reader(text).rules()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0

    def rules(self) -> dict[str, Rule]:
        result: dict[str, Rule] = {}
        self._skip(_LINES)
        while self._at < len(self._text):
            name = self._match(_NAME, "the name of a rule")
            self._skip(_SPACE)
            if not self._take("::="):
                raise self._wrong("'::=' is missing")
            self._skip(_LINES)
            result[name] = self._options(_SPACE)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._wrong(f"{self._text[self._at]!r} is out of place")
            self._skip(_LINES)
        return result

    def _options(self, space: re.Pattern[str]) -> Rule:
        options = [self._sequence(space)]
        while self._take("|"):
            self._skip(_LINES)
            options.append(self._sequence(space))
        return tuple(options)

    def _sequence(self, space: re.Pattern[str]) -> tuple[Item, ...]:
        items: list[Item] = []
        last = 0  # index of the item that may be repeated
        while self._at < len(self._text):
            before = len(items)
            times = self._times()
            if times is not None:
                if last == len(items):
                    raise self._wrong("there is nothing to repeat")
                items[last:] = [_repeat(tuple(items[last:]), *times)]
            elif not self._element(items):
                break
            else:
                last = before
            self._skip(space)
        return tuple(items)

    def _element(self, items: list[Item]) -> bool:
        """Parse one element; a literal is several items. Returns False if there is none."""
        match self._text[self._at]:
            case '"':
                items += self._literal()
            case "[":
                items.append(self._class())
            case "(":
                items.append(self._group())
            case ".":
                self._at += 1
                items.append(Characters((), negated=True))
            case "<" | "!":
                items.append(Mark(self._match(_TOKEN, "a token")))
            case character if _NAME.match(character):
                items.append(Reference(self._match(_NAME, "a name")))
            case _:
                return False
        return True

    def _times(self) -> tuple[int, int | None] | None:
        character = self._text[self._at]
        if character in _SIMPLE:
            self._at += 1
            return _SIMPLE[character]
        if character != "{":
            return None
        found = _TIMES.match(self._text, self._at)
        if found is None or max(len(found[1]), len(found[3] or "")) > 9:
            raise self._wrong("a repetition is written {2}, {2,} or {2,5}")
        self._at = found.end()
        least = int(found[1])
        if found[2] is None:
            return least, least
        return least, int(found[3]) if found[3] else None

    def _literal(self) -> list[Item]:
        self._at += 1
        items: list[Item] = []
        while not self._take('"'):
            if plain := _PLAIN.match(self._text, self._at):
                items += map(_one, plain[0])
                self._at = plain.end()
            else:
                items.append(_one(chr(self._character())))
        return items

    def _class(self) -> Characters:
        self._at += 1
        negated, ranges = self._take("^"), []
        while not self._take("]"):
            low = high = self._character()
            following = self._text[self._at : self._at + 2]
            if following[:1] == "-" and following[1:] not in ("]", ""):
                self._at += 1
                high = self._character()
            ranges.append((low, high))
        return Characters(tuple(ranges), negated)

    def _group(self) -> Group:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise self._wrong(f"more than {DEPTH_LIMIT} groups are nested")
        self._at += 1
        self._skip(_LINES)
        options = self._options(_LINES)
        if not self._take(")"):
            raise self._wrong("')' is missing")
        self._depth -= 1
        return Group(options)

    def _character(self) -> int:
        if self._at >= len(self._text):
            raise self._wrong("the grammar ends within a text")
        if self._text[self._at] != "\\":
            self._at += 1
            return ord(self._text[self._at - 1])
        found = _ESCAPE.match(self._text, self._at)
        if found is None:
            raise self._wrong(f"{self._text[self._at : self._at + 2]!r} is no escape")
        self._at = found.end()
        if found[4]:
            return ord(_LETTERS.get(found[4], found[4]))
        return int(found[1] or found[2] or found[3], 16)

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._wrong(f"{what} is missing")
        self._at = found.end()
        return found[0]

    def _take(self, text: str) -> bool:
        taken = self._text.startswith(text, self._at)
        self._at += len(text) * taken
        return taken

    def _skip(self, space: re.Pattern[str]) -> None:
        found = space.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _wrong(self, what: str) -> UsageError:
        line = self._text.count("\n", 0, self._at) + 1
        return UsageError(f"grammar: line {line}: {what}")


@lru_cache(maxsize=1 << 12)
def _one(character: str) -> Characters:
    return Characters(((ord(character), ord(character)),))


def _repeat(items: tuple[Item, ...], least: int, most: int | None) -> Repeat:
    return Repeat(items[0] if len(items) == 1 else Group((items,)), least, most)
