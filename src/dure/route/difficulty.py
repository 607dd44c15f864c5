"""Guesses from a question's looks whether a weaker model's answer will do. Learned from what users say.

A logistic regression over hashed features, one step for each verdict. Keeps numbers, no text. Pure. Refuses
to know where verdicts come from, and what follows from a guess.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import msgspec

__all__ = ["Difficulty", "features"]

_BUCKETS = 4096
_MOST_CHARS = 8000  # of a question, its end
_MOST_WORDS = 300
_STEP = 0.5
_FORGET = 0.999  # of all that is known, with every verdict
_FIRST = -2.0  # before any verdict: about one answer of eight does not do
_LEAST_VERDICTS, _LEAST_BAD = 20, 5  # before a guess is one
_WORD = re.compile(r"[^\W\d_]+")
_CODE = re.compile(r"```|[{};]\s*$|\bdef \w+\(|\bSELECT\b|</?\w+>|\w+\(\w*\)", re.MULTILINE)
_QUESTION = re.compile(
    r"\b(what|why|how|who|where|when|which|explain|prove|compare|write|translate|summari[sz]e)\b"
)


def features(text: str) -> tuple[int, ...]:
    """Return the numbers of a question's features: its length, code, digits, question words, word pairs."""
    end = text[-_MOST_CHARS:].lower()
    words = _WORD.findall(end)[-_MOST_WORDS:]
    names = [
        f"length {len(text).bit_length()}",
        f"digits {sum(map(str.isdigit, end)).bit_length()}",
    ]
    names += ["code"] if _CODE.search(text[-_MOST_CHARS:]) else []
    names += [f"asks {word}" for word in _QUESTION.findall(end)[:4]]
    names += [f"marks {min(3, end.count('?'))}"]
    names += [f"word {word}" for word in words]
    names += [f"pair {one} {other}" for one, other in pairwise(words)]
    return tuple(sorted({zlib.crc32(name.encode()) % _BUCKETS for name in names}))


class Difficulty(msgspec.Struct):
    """What is known: a weight for some features, and how many verdicts it is from."""

    weights: dict[int, float] = msgspec.field(default_factory=dict)
    bias: float = _FIRST
    n_good: int = 0
    n_bad: int = 0

    @property
    def is_known(self) -> bool:
        """Whether there were verdicts enough to go by."""
        return self.n_good + self.n_bad >= _LEAST_VERDICTS and self.n_bad >= _LEAST_BAD

    def chance(self, found: Sequence[int]) -> float:
        """Return the chance, 0 to 1, that a weaker model's answer will not do."""
        size = math.sqrt(len(found) or 1)
        total = self.bias + sum(self.weights.get(one, 0.0) for one in found) / size
        return 1 / (1 + math.exp(-min(max(total, -30.0), 30.0)))

    def observe(self, found: Sequence[int], *, good: bool) -> None:
        """Take in whether a weaker model's answer did."""
        step = _STEP * ((0.0 if good else 1.0) - self.chance(found))
        self.bias += step / 4
        self.weights = {one: weight * _FORGET for one, weight in self.weights.items()}
        size = math.sqrt(len(found) or 1)
        for one in found:
            self.weights[one] = self.weights.get(one, 0.0) + 4 * step / size
        self.n_good += good
        self.n_bad += not good
