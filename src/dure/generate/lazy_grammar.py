"""Waits for the place in a free answer from which on it must follow a grammar.

llama.cpp compares every pattern with the whole answer at every token, so an answer with tools gets slower
with its length and with their number. Here only what a match can still reach is compared: the end of the
answer, and its beginning while that is short. llama.cpp gets the tokens of the match, once there is one.
Refuses to know grammars.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence

from dure.generate.request import Grammar

__all__ = ["Trigger"]

LONGEST_MATCH = 1024  # bytes; the longest of our formats takes 400, with a tool's name of 128


class Trigger:
    """Finds what a lazy grammar waits for. piece: a token's bytes, special tokens' too."""

    def __init__(self, grammar: Grammar, piece: Callable[[int], bytes]) -> None:
        self._piece = piece
        self._tokens = frozenset(grammar.trigger_tokens)
        first = [pattern for pattern in grammar.triggers if pattern.startswith("^")]
        self._at_start = _any_of(first)
        self._anywhere = _any_of([one for one in grammar.triggers if one not in first])
        self._window: deque[tuple[int, int]] = deque()  # the last tokens, and how long each is
        self._text = b""
        self._is_whole = True

    def feed(self, token: int) -> list[int] | None:
        """Take in a token. Return the tokens that hold what was waited for, None if it has not come."""
        if token in self._tokens:
            return [token]
        piece = self._piece(token)
        self._window.append((token, len(piece)))
        self._text += piece
        while len(self._text) - self._window[0][1] >= LONGEST_MATCH:
            _, length = self._window.popleft()
            self._text, self._is_whole = self._text[length:], False
        if self._at_start and self._is_whole and self._at_start.match(self._text):
            return [token for token, _ in self._window]
        if self._anywhere is None:
            return None
        # From 1 on, `^` matches nowhere: the window no longer begins where the answer does.
        found = self._anywhere.search(self._text, 0 if self._is_whole else 1)
        return self._since(found.start()) if found else None

    def _since(self, start: int) -> list[int]:
        """Return the tokens from the one that holds the byte `start` of the window."""
        end = 0
        for index, (_, length) in enumerate(self._window):
            end += length
            if end > start:
                return [token for token, _ in list(self._window)[index:]]
        return [self._window[-1][0]]


def _any_of(patterns: Sequence[str]) -> re.Pattern[bytes] | None:
    """Return one expression for several. At the end, `$` means the very end, as in llama.cpp."""
    if not patterns:
        return None
    ends = (f"(?:{one[:-1]}\\Z)" if one.endswith("$") else f"(?:{one})" for one in patterns)
    return re.compile("|".join(ends).encode())
