"""The prefill budget: how the tokens of a step are divided between answers and prompts.

An answer beside prompts goes on at half its speed or more: a step computes as much of prompts as takes the
time of the answers' own tokens. Only if more than twice as many answers begin in a step as run, these skip
it, so that it is over sooner.
Pure. Knows token counts and owners, and how long steps took. Refuses to know slots and the KV cache.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dure.generate.request import Owner
from dure.generate.scheduler.running import RunningRequest, StepTokens, next_tokens

__all__ = ["PrefillLimits", "PrefillSpeed", "divided_step"]

LEAST_S = 0.05  # of prompts in a step: nobody notices that an answer waits for them
MOST_WAIT_S = 1.0  # that answers wait for prompts in a step which they skip
BEGIN_MORE = 2  # times as many answers as run must begin in that step
MIN_CHUNK = 8
MIN_OBSERVED = 8  # tokens of prompts
BESIDE = 0.5  # of the speed of many tokens, that few have beside answers, until observed
SMOOTHING = 0.3  # of the latest step in the measured speed
PREFILL_AGING = 2  # a prompt moves up by 1 token for this many tokens computed of other prompts


@dataclass(frozen=True)
class PrefillLimits:
    """How much of prompts a step computes if answers run.

    n_chunk: the most tokens beside the answers. n_alone: the most in a step that the answers skip.
    """

    n_chunk: int
    n_alone: int = 0


class PrefillSpeed:
    """Measures how fast prompts are computed, and limits a step's prefill by time.

    Steps of prompts alone have many tokens, and take less time for each than the few beside answers.
    """

    def __init__(self) -> None:
        self.alone = self._beside = 0.0  # tokens a second; 0 until measured

    def observe_alone(self, n_tokens: int, seconds: float) -> None:
        """Take in a step of prompts; a few tokens say little, and are ignored."""
        self.alone = _smoothed(self.alone, n_tokens, seconds)

    def observe_beside(self, n_tokens: int, seconds: float) -> None:
        """Take in what prompts added to a step of answers."""
        self._beside = _smoothed(self._beside, n_tokens, seconds)

    def limits(self, answers_s: float) -> PrefillLimits:
        """Return the limits of a step. answers_s: how long it takes without prompts."""
        beside = self._beside or BESIDE * self.alone
        n_chunk = int(beside * max(LEAST_S, answers_s))
        return PrefillLimits(max(MIN_CHUNK, n_chunk), int(self.alone * MOST_WAIT_S))


def _smoothed(before: float, n_tokens: int, seconds: float) -> float:
    if n_tokens < MIN_OBSERVED:
        return before
    speed = n_tokens / seconds
    return (1 - SMOOTHING) * before + SMOOTHING * speed if before else speed


def divided_step(
    decodes: Sequence[StepTokens],
    prefills: Sequence[RunningRequest],
    n_batch: int,
    limits: PrefillLimits,
    clock: Callable[[Owner], float],
    *,
    may_wait: bool,
) -> tuple[list[StepTokens], bool]:
    """Divide a step of n_batch tokens between answers and prompts; tell whether the answers skip it.

    decodes: the answers' tokens. may_wait: the answers may skip this step.
    """
    if not decodes:
        return _prefill_chunks(prefills, n_batch, clock), False
    n_more = BEGIN_MORE * len(decodes)
    if may_wait and len(prefills) > n_more:
        alone = _prefill_chunks(prefills, min(n_batch, limits.n_alone), clock)
        if sum(chunk.output for chunk in alone) > n_more:
            return alone, True
    n_beside = min(n_batch - len(decodes), max(1, limits.n_chunk))
    return [*decodes, *_prefill_chunks(prefills, n_beside, clock)], False


def _prefill_chunks(
    prefills: Sequence[RunningRequest], budget: int, clock: Callable[[Owner], float]
) -> list[StepTokens]:
    """Divide `budget` tokens between prompts.

    Each owner gets its share by weight, the one whose clock is behind first; owners of a lower priority
    get what these leave. Of an owner's prompts the shortest comes first; one that was passed over counts
    as shorter the longer it waits, so that none starves. A prompt that ends in this step has it without the
    chunks of owners that are not behind its own: its first token waits for no more than the step before.
    """
    shortest = sorted(prefills, key=lambda r: r.n_remaining - r.n_skipped // PREFILL_AGING)
    taken = _Taken(budget)
    highest = max((r.request.owner.priority for r in prefills), default=0)
    owners = {r.request.owner for r in prefills if r.request.owner.priority == highest}
    weight = sum(owner.weight for owner in owners)
    for owner in sorted(owners, key=lambda owner: (clock(owner), owner.name)):
        own = [r for r in shortest if r.request.owner == owner]
        taken.take(own, part=owner.weight / weight)
        weight -= owner.weight
    taken.take(shortest)
    ending = {r.request.owner for r in shortest if taken.n_of[id(r)] == r.n_remaining}
    chunks = []
    for running in shortest:
        owner, n = running.request.owner, taken.n_of[id(running)]
        gives_way = any(other != owner and clock(other) <= clock(owner) for other in ending)
        if n and not (gives_way and n < running.n_remaining):
            chunks.append(next_tokens(running, n))
    return chunks


class _Taken:
    """How many tokens of each prompt a step computes so far, and how many it has room for."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self.n_of: Counter[int] = Counter()

    def take(self, prompts: Iterable[RunningRequest], part: float = 1.0) -> None:
        """Take tokens of prompts, in this order: at most a part of what is left, rounded up."""
        most = math.ceil(self._left * part)
        for running in prompts:
            n = min(running.n_to_stop - self.n_of[id(running)], most)
            if n > 0:
                self.n_of[id(running)] += n
                self._left, most = self._left - n, most - n
