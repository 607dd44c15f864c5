"""The prefill budget: how the tokens of a step are divided between answers and prompts.

Pure. Knows token counts, and how fast prompts were computed. Refuses to know slots and the KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    prefills: Sequence[RunningRequest], budget: int, long_budget: int, n_short: int
) -> list[StepTokens]:
    """Divide `budget` tokens between prompts, the shortest first; long prompts get long_budget at most.

    A prompt that was passed over counts as shorter the longer it waits, so that none starves.
    """
    chunks = []
    for running in sorted(prefills, key=lambda r: r.n_remaining - r.n_skipped // PREFILL_AGING):
        is_long = running.n_remaining > n_short
        n_max = min(budget, long_budget) if is_long else budget
        if n_max > 0:
            chunks.append(next_tokens(running, n_max))
            budget -= len(chunks[-1].tokens)
            long_budget -= len(chunks[-1].tokens) if is_long else 0
    return chunks


def answers_wait(n_answers: int, chunks: Sequence[StepTokens], limits: PrefillLimits) -> bool:
    """Tell whether running answers should skip a step, because it begins more answers than run."""
    n_begin = sum(chunk.output for chunk in chunks)
    return limits.n_short > 0 and n_begin > n_answers > 0
