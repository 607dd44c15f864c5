"""The prefill budget: how the tokens of a step are divided between answers and prompts.

Pure. Knows token counts and owners, and how fast prompts were computed. Refuses to know slots and the KV
cache.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dure.generate.request import Owner
from dure.generate.scheduler.running import RunningRequest, StepTokens, next_tokens

__all__ = ["PrefillLimits", "PrefillSpeed", "answers_wait", "prefill_chunks"]

CHUNK_S = 0.4  # of a long prompt beside running answers: their next tokens wait for it
SHORT_S = 1.0  # a prompt that takes no longer is computed without chunking
MIN_CHUNK = 32
SMOOTHING = 0.3  # of the latest step in the measured speed
PREFILL_AGING = 2  # a prompt moves up by 1 token for this many tokens computed of other prompts


@dataclass(frozen=True)
class PrefillLimits:
    """How much of prompts a step computes beside running answers.

    n_chunk: the most tokens of long prompts. n_short: a prompt with no more tokens left is short; it is not
    held to n_chunk, and if more short prompts end in a step than answers run, the answers skip that step.
    """

    n_chunk: int
    n_short: int = 0


class PrefillSpeed:
    """Measures how fast prompts are computed, and limits a step's prefill by time."""

    def __init__(self) -> None:
        self.tokens_per_s = 0.0  # 0 until measured

    def observe(self, n_tokens: int, seconds: float) -> None:
        """Take in a step with n_tokens of prompts; a step with few of them says little, and is ignored."""
        if n_tokens < MIN_CHUNK:
            return
        speed, before = n_tokens / seconds, self.tokens_per_s
        self.tokens_per_s = (1 - SMOOTHING) * before + SMOOTHING * speed if before else speed

    @property
    def limits(self) -> PrefillLimits:
        """The limits of the next step."""
        n_chunk, n_short = (int(self.tokens_per_s * seconds) for seconds in (CHUNK_S, SHORT_S))
        return PrefillLimits(max(MIN_CHUNK, n_chunk), n_short)


def prefill_chunks(
    prefills: Sequence[RunningRequest],
    budget: int,
    long_budget: int,
    n_short: int,
    clock: Callable[[Owner], float] = lambda _: 0.0,
) -> list[StepTokens]:
    """Divide `budget` tokens between prompts; long prompts get long_budget at most.

    Each owner gets its share by weight, the one whose clock is behind first; owners of a lower priority
    get what these leave. Of an owner's prompts the shortest comes first; one that was passed over counts
    as shorter the longer it waits, so that none starves. A prompt that ends in this step has it without the
    chunks of owners that are not behind its own: its first token waits for no more than the step before.
    """
    shortest = sorted(prefills, key=lambda r: r.n_remaining - r.n_skipped // PREFILL_AGING)
    taken = _Taken(budget, long_budget, n_short)
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

    def __init__(self, budget: int, long_budget: int, n_short: int) -> None:
        self._left, self._long_left, self._n_short = budget, min(budget, long_budget), n_short
        self.n_of: Counter[int] = Counter()

    def take(self, prompts: Iterable[RunningRequest], part: float = 1.0) -> None:
        """Take tokens of prompts, in this order: at most a part of what is left, rounded up."""
        most, most_long = math.ceil(self._left * part), math.ceil(self._long_left * part)
        for running in prompts:
            is_long = running.n_remaining > self._n_short
            room = min(most, most_long) if is_long else most
            n = min(running.n_to_stop - self.n_of[id(running)], room)
            if n > 0:
                self.n_of[id(running)] += n
                self._left, most = self._left - n, most - n
                self._long_left, most_long = self._long_left - n * is_long, most_long - n * is_long


def answers_wait(n_answers: int, chunks: Sequence[StepTokens], limits: PrefillLimits) -> bool:
    """Tell whether running answers should skip a step, because it begins more answers than run."""
    n_begin = sum(chunk.output for chunk in chunks)
    return limits.n_short > 0 and n_begin > n_answers > 0
