"""How many guessed tokens a step tries: as many as make it give the most tokens a second.

A step that computes a few tokens more takes little longer, where reading the weights is what takes long;
each guess that is right saves a step. Pure: told what steps took and which guesses were right, asked how
many to try. Text and result never depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dure.generate.speculative.prompt_lookup import LENGTHS
from dure.model.gguf import GgufFile

__all__ = [
    "BY_MODEL",
    "MOST_DRAFTS",
    "Acceptance",
    "Chance",
    "Drafting",
    "StepCosts",
    "drafting_for",
]

MOST_DRAFTS, MOST_DRAFTS_OF_EXPERTS = 15, 2
BY_MODEL = 0  # a source of guesses, beside what is looked up
# How right guesses are taken to be at first. Whether one that was looked up would have been right is seen
# for nothing; a model must be asked.
LOOKED_UP_AT_FIRST, BY_MODEL_AT_FIRST = 0.2, 0.8
WORTH = 1.05  # times as fast as without, or it is not tried
NEW = 0.2  # of the latest step in what steps of its size take
FADE = 0.95  # of what earlier guesses taught, at every guess
GROWTH = 0.5  # a step of twice the tokens is taken to last 2 ** GROWTH as long, until one was seen


class Chance(NamedTuple):
    """Of one answer up to `most` tokens can be guessed, each right with `probability`.

    round_s: seconds it takes to ask for one; for all answers at once.
    """

    most: int
    probability: float
    round_s: float = 0.0


def _at_first() -> dict[int, float]:
    return {**dict.fromkeys(LENGTHS, LOOKED_UP_AT_FIRST), BY_MODEL: BY_MODEL_AT_FIRST}


@dataclass
class Acceptance:
    """How often the guesses of one answer are right, by their source.

    That is the length of the ending they were found by, or BY_MODEL.
    """

    _right: dict[int, float] = field(default_factory=_at_first)
    _all: dict[int, float] = field(default_factory=lambda: dict.fromkeys(_at_first(), 1.0))

    def of(self, source: int) -> float:
        """The part that is right, 0 to 1."""
        return self._right[source] / self._all[source]

    def saw(self, source: int, *, right: bool) -> None:
        """A guess was right, or wrong."""
        self._right[source] = FADE * self._right[source] + right
        self._all[source] = FADE * self._all[source] + 1


class StepCosts:
    """Seconds that steps take, by their number of tokens."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}

    def saw(self, n_tokens: int, seconds: float) -> None:
        """A step took so long."""
        before = self._seen.get(n_tokens, seconds)
        # A step that was held up once says nothing of the next.
        self._seen[n_tokens] = before + NEW * (min(seconds, 2 * before) - before)

    def of(self, n_tokens: int) -> float:
        """What a step of so many tokens will take; raises KeyError where none was seen at all."""
        if n_tokens in self._seen:
            return self._seen[n_tokens]
        less = [n for n in self._seen if n < n_tokens]
        more = [n for n in self._seen if n > n_tokens]
        if less and more:
            a, b = max(less), min(more)
            part = (n_tokens - a) / (b - a)
            return self._seen[a] + part * (self._seen[b] - self._seen[a])
        if less:
            return self._seen[max(less)] * math.pow(n_tokens / max(less), GROWTH)
        if more:
            return self._seen[min(more)]
        raise KeyError(n_tokens)

    @property
    def is_known(self) -> bool:
        """Whether any step was seen."""
        return bool(self._seen)


class Drafting:
    """Chooses for one engine. most: of drafts of one answer in a step."""

    def __init__(self, most: int = MOST_DRAFTS) -> None:
        self.most = most
        self.costs = StepCosts()

    def plan(self, n_answers: int, guesses: Sequence[Chance], most: int) -> list[int]:
        """How many drafts to try of each guess.

        n_answers: that get a token in any case. guesses: of some of these. most: drafts in all.
        """
        counts = [0] * len(guesses)
        if not self.costs.is_known or not n_answers:
            return counts
        chances = sorted(
            (
                (guess.probability**place, i, place * guess.round_s)
                for i, guess in enumerate(guesses)
                for place in range(1, min(guess.most, self.most) + 1)
            ),
            reverse=True,
        )[:most]
        best, best_rate = 0, WORTH * n_answers / self.costs.of(n_answers)
        expected, asking_s = float(n_answers), 0.0
        for n, (chance, _, asked_s) in enumerate(chances, 1):
            expected += chance
            asking_s = max(asking_s, asked_s)
            rate = expected / (self.costs.of(n_answers + n) + asking_s)
            if rate > best_rate:
                best, best_rate = n, rate
        for _, i, _ in chances[:best]:
            counts[i] += 1
        return counts


def drafting_for(model: GgufFile) -> Drafting:
    """For a model: each token of a mixture of experts reads the weights of others."""
    has_experts = model.int(f"{model.architecture}.expert_count", 0) > 0
    return Drafting(MOST_DRAFTS_OF_EXPERTS if has_experts else MOST_DRAFTS)
