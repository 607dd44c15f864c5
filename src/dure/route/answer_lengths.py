"""Learns how long answers get, from the last ones that were like them.

Alike are those of one model and key, with a like limit; more so if their prompts are as long, and most of
all if these begin alike, as those of one program with its own system prompt do. Pure of clocks and files.
"""

from __future__ import annotations

import statistics

import msgspec

__all__ = ["AnswerKind", "AnswerLengths"]

_MOST_LENGTHS = 32
_MOST_GROUPS = 2000
_ENOUGH = 4  # lengths of a group that is told from a wider one by its prompts
_FIRST_GUESS = 256  # tokens of an answer of which nothing is known
_CUT_SHORT = 2**31 - 1  # instead of a length that a limit has ended


class AnswerKind(msgspec.Struct, frozen=True):
    """What is known of an answer before it comes. most: its max_tokens; n_bytes: of its prompt.

    beginning: a hash of how the prompt begins, "" if it is too short for that to say anything.
    """

    model: str
    key: str
    most: int | None
    n_bytes: int = 0
    beginning: str = ""

    def groups(self) -> list[tuple[str, int]]:
        """Return groups of like answers, the narrowest first: names, and how many lengths each needs."""
        size = "-" if self.most is None else str(self.most.bit_length())
        asker = f"{self.model} {self.key} {size}"
        begun = [(f"{asker} ={self.beginning}", _ENOUGH)] if self.beginning else []
        return [
            *begun,
            (f"{asker} ~{self.n_bytes.bit_length()}", _ENOUGH),
            (asker, 1),
            (f"{self.model} * {size}", 1),
            (f"* * {size}", 1),
        ]


class AnswerLengths(msgspec.Struct):
    """How long the last answers of each group were, in tokens."""

    of: dict[str, list[int]] = msgspec.field(default_factory=dict)

    def observe(self, kind: AnswerKind, tokens: int) -> None:
        """Take in an answer's length. One that reached its limit would have gone on."""
        tokens = tokens if kind.most is None or tokens < kind.most else _CUT_SHORT
        for group, _ in kind.groups():
            lengths = self.of.pop(group, [])
            self.of[group] = [*lengths[-_MOST_LENGTHS + 1 :], tokens]  # the last that is forgotten
        while len(self.of) > _MOST_GROUPS:
            del self.of[next(iter(self.of))]

    def expected(self, kind: AnswerKind) -> int:
        """Return the median of the narrowest group that has enough, at most its limit."""
        expected = round(statistics.median(self._like(kind)))
        return expected if kind.most is None else min(kind.most, expected)

    def _like(self, kind: AnswerKind) -> list[int]:
        for group, enough in kind.groups():
            if len(lengths := self.of.get(group, [])) >= enough:
                return lengths
        return [_FIRST_GUESS]
