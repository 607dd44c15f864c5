"""Prompt lookup: draft tokens that followed the same n-gram earlier in the same text.

Pure. Refuses to know whether a draft is worth verifying.
Source of the idea: prompt lookup decoding, A. Saxena, 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["NGRAM_LENGTHS", "LookupDraft", "PromptLookup"]

NGRAM_LENGTHS = (6, 3)  # of the text's last tokens; the longest is looked up first


@dataclass(frozen=True)
class LookupDraft:
    """Draft tokens that followed an earlier occurrence of the text's last n_matched tokens."""

    tokens: tuple[int, ...]
    n_matched: int


class PromptLookup:
    """One text, with the position after the latest occurrence of each of its n-grams."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._after: dict[int, int] = {}  # by hash: a wrong draft costs little
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Append a token to the text."""
        self._after.update((ngram, len(self._tokens)) for _, ngram in self._last_ngrams())
        self._tokens.append(token)

    def propose(self, n_max: int) -> LookupDraft | None:
        """Return n_max tokens that may follow; None if no n-gram at the end occurred before."""
        for length, ngram in self._last_ngrams():
            start = self._after.get(ngram)
            if start is not None and n_max > 0:
                return LookupDraft(self._from(start, n_max), length)
        return None

    def _last_ngrams(self) -> list[tuple[int, int]]:
        """Return length and hash of each n-gram that ends the text."""
        n = len(self._tokens)
        return [(k, hash((k, *self._tokens[n - k :]))) for k in NGRAM_LENGTHS if n >= k]

    def _from(self, start: int, n: int) -> tuple[int, ...]:
        """Return n tokens from a position on; past the end the text repeats from there."""
        period = self._tokens[start : start + n]
        return tuple(period[i % len(period)] for i in range(n))
