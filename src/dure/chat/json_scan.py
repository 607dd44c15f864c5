"""Finds where a JSON value ends, in a text that comes in pieces.

Knows brackets, strings and escapes. Refuses to know what the value says.
"""

from __future__ import annotations

import re

__all__ = ["JsonScan"]

_INSIDE = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]|[^\w\s+\-.,:]')
_PAIRS = {"}": "{", "]": "["}


class JsonScan:
    """Follows one object or array. `broken`: the text is no JSON from there on."""

    def __init__(self) -> None:
        self.broken = False
        self._open: list[str] = []
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> int | None:
        """Return where the value ends in this piece (exclusive), or breaks; None if it goes on."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(text, at)
            if found is None:
                return None
            at = found.end()
            if self._in_string:
                self._inside(found[0])
            elif self._outside(found[0]):
                return found.start() if self.broken else at
        return None

    def _inside(self, mark: str) -> None:
        self._escaped = mark == "\\"
        self._in_string = self._escaped

    def _outside(self, mark: str) -> bool:
        if mark == '"':
            self._in_string = True
        elif mark in "{[":
            self._open.append(mark)
        elif self._open and _PAIRS.get(mark) == self._open[-1]:
            self._open.pop()
            return not self._open
        else:
            self.broken = True
        return self.broken
