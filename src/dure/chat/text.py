"""Decodes the bytes of tokens to text, as it may be shown.

Knows characters that span tokens, stop strings that span tokens, and which tokens a text came from.
Refuses to know vocabularies, engines and HTTP. Pure: what is given out depends on the bytes only,
never on where the tokens' borders are.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Chunk", "TextAssembler"]

T = TypeVar("T")


@dataclass(frozen=True)
class Chunk(Generic[T]):
    """More text, and the tokens whose last character it holds. Without text there are no tokens."""

    text: str
    tokens: tuple[T, ...]


class TextAssembler(Generic[T]):
    """Assembles one answer: `feed` each token's bytes, then `finish`.

    stop: texts that end the answer. Of those met, the one that ends first counts, and of these the
    longest; text that may be the beginning of one is held back until it is known not to be.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(text for text in stop if text)
        self._reach = max((len(text) for text in self._stops), default=0)
        self._held = ""
        self._given = 0  # characters given out: where _held begins
        self._waiting: deque[tuple[int, int, T]] = deque()  # begin, end in characters; the token
        self.stop: str | None = None
        """The stop string that was met; feed nothing more then."""

    def feed(self, piece: bytes, token: T) -> Chunk[T]:
        """Return the text that a token completes; often its own, sometimes none."""
        begin = self._given + len(self._held)
        self._held += self._decoder.decode(piece)
        open_character = bool(self._decoder.getstate()[0])
        self._waiting.append((begin, self._given + len(self._held) + open_character, token))
        return self._give()

    def finish(self) -> Chunk[T]:
        """Return what was held back: text, and half a character as U+FFFD."""
        if self.stop is not None:
            return Chunk("", ())
        self._held += self._decoder.decode(b"", final=True)
        chunk = self._give()
        if self.stop is not None:
            return chunk
        rest = Chunk(
            chunk.text + self._held, chunk.tokens + tuple(token for *_, token in self._waiting)
        )
        self._held = ""
        self._waiting.clear()
        return rest

    def _give(self) -> Chunk[T]:
        if not self._stops:
            return self._take(len(self._held))
        cut = self._find_stop()
        if cut is None:
            return self._take(len(self._held) - self._may_begin())
        return self._take_last(cut)

    def _find_stop(self) -> int | None:
        """Return where a stop string begins, and set `stop`; None if none was met."""
        met = [
            (at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0
        ]
        if not met:
            return None
        _, cut, self.stop = min(met)
        return cut

    def _may_begin(self) -> int:
        """Count the characters at the end that may begin a stop string."""
        held = self._held
        for n in range(min(len(held), self._reach - 1), 0, -1):
            tail = held[-n:]
            if any(len(stop) > n and stop.startswith(tail) for stop in self._stops):
                return n
        return 0

    def _take(self, n: int) -> Chunk[T]:
        if n == 0:
            return Chunk("", ())
        text, self._held = self._held[:n], self._held[n:]
        self._given += n
        tokens = []
        while self._waiting and self._waiting[0][1] <= self._given:
            tokens.append(self._waiting.popleft()[2])
        return Chunk(text, tuple(tokens))

    def _take_last(self, cut: int) -> Chunk[T]:
        end = self._given + cut
        tokens = tuple(token for begin, _, token in self._waiting if begin < end)
        text, self._held = self._held[:cut], ""
        self._waiting.clear()
        return Chunk(text, tokens)
