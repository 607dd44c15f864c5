"""What a text will go on with, if it goes on as it did before: looked up in the text itself.

Pure. Source of the idea: prompt lookup decoding, A. Saxena, 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["LENGTHS", "Guess", "Lookup"]

LENGTHS = (6, 3)  # of the endings that are looked for, longest first


@dataclass(frozen=True)
class Guess:
    """Tokens that may follow, because an ending of `length` tokens was followed by them before."""

    tokens: tuple[int, ...]
    length: int


class Lookup:
    """One text, with the place after the latest occurrence of each of its short sequences."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._after: dict[int, int] = {}  # by hash: a wrong guess costs little
        for token in tokens:
            self.accept(token)

    def accept(self, token: int) -> None:
        """The text goes on with a token."""
        self._after.update((ending, len(self._tokens)) for _, ending in self._endings())
        self._tokens.append(token)

    def guess(self, most: int) -> Guess | None:
        """Up to so many tokens that may follow; None where the ending is new."""
        for length, ending in self._endings():
            start = self._after.get(ending)
            if start is not None and most > 0:
                return Guess(self._from(start, most), length)
        return None

    def _endings(self) -> list[tuple[int, int]]:
        n = len(self._tokens)
        return [(k, hash((k, *self._tokens[n - k :]))) for k in LENGTHS if n >= k]

    def _from(self, start: int, n: int) -> tuple[int, ...]:
        """n tokens from a place; past the end the text is taken to go round from there."""
        period = self._tokens[start : start + n]
        return tuple(period[i % len(period)] for i in range(n))
