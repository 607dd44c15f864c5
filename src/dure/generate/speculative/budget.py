"""The draft budget: how many draft tokens a step verifies, to generate the most tokens a second.

A step that computes a few more tokens takes little longer, as long as reading the weights takes most of it;
each accepted draft token saves a step. Pure: it observes what steps took and which drafts were accepted.
Refuses to know the draft tokens themselves; the text never depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dure.generate.speculative.prompt_lookup import NGRAM_LENGTHS
from dure.model.gguf import GgufFile

__all__ = [
    "BY_MODEL",
    "MAX_DRAFTS",
    "AcceptanceRates",
    "DraftBudget",
    "DraftOption",
    "StepCosts",
    "budget_for",
]

MAX_DRAFTS, MAX_DRAFTS_OF_EXPERTS = 15, 2
BY_MODEL = 0  # the source of drafts that is not a length of n-grams
# Acceptance rates before anything was observed. Whether a looked-up draft would have been accepted is
# observed without a cost; a draft model must be run.
INITIAL_LOOKUP_RATE, INITIAL_MODEL_RATE = 0.2, 0.8
MIN_SPEEDUP = 1.05  # a gain up to this is not worth longer steps
COST_SMOOTHING = 0.2  # of the latest step in the cost of its size
RATE_DECAY = 0.95  # of earlier drafts in an acceptance rate, at every new one
COST_GROWTH = (
    0.5  # a step of twice the tokens costs at least 2 ** COST_GROWTH as much, until observed
)


class DraftOption(NamedTuple):
    """The drafts that one answer can have.

    n_max: draft tokens at most. acceptance_rate: the probability that each is accepted, if those before
    it were. round_s: seconds to compute one more, for all answers at once.
    """

    n_max: int
    acceptance_rate: float
    round_s: float = 0.0


def _initial_rates() -> dict[int, float]:
    return {**dict.fromkeys(NGRAM_LENGTHS, INITIAL_LOOKUP_RATE), BY_MODEL: INITIAL_MODEL_RATE}


@dataclass
class AcceptanceRates:
    """How often the draft tokens of one answer are accepted, by their source.

    A source is the length of the n-gram that a draft was found by, or BY_MODEL.
    """

    _accepted: dict[int, float] = field(default_factory=_initial_rates)
    _drafted: dict[int, float] = field(default_factory=lambda: dict.fromkeys(_initial_rates(), 1.0))

    def rate(self, source: int) -> float:
        """Return the acceptance rate of a source, 0 to 1."""
        return self._accepted[source] / self._drafted[source]

    def observe(self, source: int, *, accepted: bool) -> None:
        """Take in that a draft token was accepted or rejected."""
        self._accepted[source] = RATE_DECAY * self._accepted[source] + accepted
        self._drafted[source] = RATE_DECAY * self._drafted[source] + 1


class StepCosts:
    """Seconds that steps take, by their number of tokens."""

    def __init__(self) -> None:
        self._observed: dict[int, float] = {}

    def observe(self, n_tokens: int, seconds: float) -> None:
        """Take in what a step took."""
        before = self._observed.get(n_tokens, seconds)
        # A step that was held up once says nothing of the next.
        self._observed[n_tokens] = before + COST_SMOOTHING * (min(seconds, 2 * before) - before)

    def seconds(self, n_tokens: int) -> float:
        """Estimate what a step of n_tokens takes; raises KeyError if no step was observed."""
        if n_tokens in self._observed:
            return self._observed[n_tokens]
        smaller = max((n for n in self._observed if n < n_tokens), default=None)
        larger = min((n for n in self._observed if n > n_tokens), default=None)
        if smaller is not None and larger is not None:
            part = (n_tokens - smaller) / (larger - smaller)
            low, high = self._observed[smaller], self._observed[larger]
            return low + part * (high - low)
        if smaller is not None:
            return self._observed[smaller] * math.pow(n_tokens / smaller, self._growth(smaller))
        if larger is not None:
            return self._observed[larger]
        raise KeyError(n_tokens)

    def _growth(self, largest: int) -> float:
        """Return the power by which costs grow beyond the largest step that was observed."""
        before = max((n for n in self._observed if n < largest), default=None)
        if before is None:
            return COST_GROWTH
        ratio = self._observed[largest] / self._observed[before]
        observed = math.log(ratio) / math.log(largest / before)
        return min(1.0, max(COST_GROWTH, observed))

    @property
    def is_known(self) -> bool:
        """Tell whether any step was observed."""
        return bool(self._observed)


class _DraftToken(NamedTuple):
    """A draft token that a step may verify: the probability that it is accepted, and when it is there."""

    probability: float
    option: int
    drafted_s: float


class DraftBudget:
    """Divides the drafts of one engine's steps. n_max: drafts of one answer in a step."""

    def __init__(self, n_max: int = MAX_DRAFTS) -> None:
        self.n_max = n_max
        self.costs = StepCosts()

    def plan(self, n_answers: int, options: Sequence[DraftOption], n_max: int) -> list[int]:
        """Return how many draft tokens of each option to verify, n_max of them in all at most.

        n_answers: the answers of the step, with a draft or not.
        """
        counts = [0] * len(options)
        if not self.costs.is_known or not n_answers:
            return counts
        likeliest = sorted(self._draft_tokens(options), reverse=True)[:n_max]
        for token in likeliest[: self._n_worth(n_answers, likeliest)]:
            counts[token.option] += 1
        return counts

    def _draft_tokens(self, options: Sequence[DraftOption]) -> list[_DraftToken]:
        return [
            _DraftToken(option.acceptance_rate**n, i, n * option.round_s)
            for i, option in enumerate(options)
            for n in range(1, min(option.n_max, self.n_max) + 1)
        ]

    def _n_worth(self, n_answers: int, likeliest: Sequence[_DraftToken]) -> int:
        """Return how many of the likeliest draft tokens to verify: for the most tokens a second, or the
        fewest that give nearly as many, because texts come sooner from shorter steps.
        """
        rates = [n_answers / self.costs.seconds(n_answers)]
        n_expected, drafting_s = float(n_answers), 0.0
        for n, token in enumerate(likeliest, 1):
            n_expected += token.probability
            drafting_s = max(drafting_s, token.drafted_s)
            rates.append(n_expected / (self.costs.seconds(n_answers + n) + drafting_s))
        enough = max(rates) / MIN_SPEEDUP
        return next(n for n, rate in enumerate(rates) if rate >= enough)


def budget_for(model: GgufFile) -> DraftBudget:
    """Return the budget of a model: in a mixture of experts each token reads weights of its own."""
    has_experts = model.int(f"{model.architecture}.expert_count", 0) > 0
    return DraftBudget(MAX_DRAFTS_OF_EXPERTS if has_experts else MAX_DRAFTS)
