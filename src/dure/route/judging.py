"""Finds out which answers of weaker upstreams did: what their users say, and what they do next.

A user says so, or asks the same again of a stronger upstream by name. Who does neither for ten minutes is
taken to be content. Keeps hashes and numbers of the last answers, in memory. Pure of clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

__all__ = ["AnswerVerdict", "How", "Judging", "WeakAnswer"]

_CONTENT_S = 600.0
_MOST = 2000

How = Literal["said", "asked-again", "content"]


class WeakAnswer(NamedTuple):
    """A question that a weaker upstream has answered. prompt: its hash. difficulty: as guessed then."""

    id: str
    key: str
    prompt: bytes
    strength: int
    features: tuple[int, ...]
    difficulty: float


class AnswerVerdict(NamedTuple):
    """Whether an answer did, and how that is known."""

    asked: WeakAnswer
    good: bool
    how: How


class Judging:
    """The last answers that nobody has judged yet, by their ids, the oldest first."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[WeakAnswer, float]] = {}

    def answered(self, asked: WeakAnswer, now_s: float) -> None:
        """Note an answer of a weaker upstream."""
        self._open[asked.id] = asked, now_s
        while len(self._open) > _MOST:
            del self._open[next(iter(self._open))]

    def said(self, request_id: str, key: str, *, good: bool) -> AnswerVerdict | None:
        """Return the verdict that a user gives, None if no answer of that id waits for this key's."""
        asked, _ = self._open.get(request_id, (None, 0.0))
        if asked is None or asked.key != key:
            return None
        del self._open[request_id]
        return AnswerVerdict(asked, good, "said")

    def asked_again(self, prompt: bytes, key: str, strength: int) -> AnswerVerdict | None:
        """Return the verdict if the same was asked before of a weaker one than is asked by name now."""
        for asked, _ in reversed(self._open.values()):
            if (asked.prompt, asked.key) == (prompt, key) and asked.strength < strength:
                del self._open[asked.id]
                return AnswerVerdict(asked, False, "asked-again")
        return None

    def content(self, now_s: float) -> Iterator[AnswerVerdict]:
        """Yield the verdicts of those who have said nothing for long enough."""
        while self._open:
            asked, answered_s = next(iter(self._open.values()))
            if now_s - answered_s < _CONTENT_S:
                return
            del self._open[asked.id]
            yield AnswerVerdict(asked, True, "content")
