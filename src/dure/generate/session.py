"""One conversation on an executor: prompt in, tokens out, the KV cache kept between turns.

Knows prefill, decode and when an answer ends.
Refuses to know text beyond a token's bytes, and how many machines answer.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dure.engine.executor import Batch, Executor, KvOp, StepResult, StepStats
from dure.errors import UsageError
from dure.generate.sampling import Sampler, Sampling
from dure.model.vocabulary import Vocabulary

__all__ = ["Piece", "Session", "Timings"]


@dataclass(frozen=True)
class Piece:
    """One generated token, and the text it completes (empty in the middle of a character)."""

    token: int
    text: str


@dataclass
class Timings:
    """What an answer took. `steps` are the decode steps' figures, for time per token."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_s: float = 0.0
    tokens: int = 0
    generate_s: float = 0.0
    steps: list[StepStats] = field(default_factory=list)

    @property
    def prompt_per_s(self) -> float:
        """Prompt tokens a second, without those that were cached."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prompt_s if self.prompt_s else 0.0

    @property
    def generated_per_s(self) -> float:
        """Generated tokens a second; the first comes with the prompt and is not counted."""
        return len(self.steps) / self.generate_s if self.generate_s else 0.0

    def mean_s(self, part: Callable[[StepStats], Sequence[float]]) -> float:
        """Mean seconds of one part of a decode step, over steps and ranks."""
        return float(np.mean([part(step) for step in self.steps])) if self.steps else 0.0


class Session:
    """One sequence on an executor.

    `finish` tells after an answer why it ended: "stop" (the model ended it), "length" (max_tokens or the
    context is reached) or "cancelled".
    """

    def __init__(self, executor: Executor, vocabulary: Vocabulary, sequence: int = 0) -> None:
        self._executor, self._vocabulary, self._sequence = executor, vocabulary, sequence
        self._cached: list[int] = []
        self._first_token_at = 0.0
        self.timings = Timings()
        self.finish = ""

    def answer(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        max_tokens: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Piece]:
        """Generate after `prompt`. `cancelled` is asked between steps.

        Raises UsageError where the prompt is empty or longer than the context.
        """
        self._check(prompt, max_tokens)
        self.timings, self.finish = Timings(prompt_tokens=len(prompt)), "cancelled"
        sampler, decoder = Sampler(sampling), codecs.getincrementaldecoder("utf-8")("replace")
        result = self._prefill(prompt, sampling.n_best, cancelled)
        while result is not None:
            token = sampler.choose(result.rows[0], lambda: self._executor.logits(0))
            if self._vocabulary.is_end(token):
                self.finish = "stop"
                break
            self.timings.tokens += 1
            yield Piece(token, decoder.decode(self._vocabulary.piece(token)))
            if self._is_full(max_tokens):
                self.finish = "length"
                break
            result = None if cancelled() else self._decode(token, sampling.n_best)
        if rest := decoder.decode(b"", final=True):
            yield Piece(-1, rest)

    def _check(self, prompt: Sequence[int], max_tokens: int | None) -> None:
        if not prompt:
            raise UsageError("the prompt is empty: give some text")
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"--max-tokens {max_tokens}: give a number above 0")
        if len(prompt) >= self._executor.info.n_ctx:
            raise UsageError(
                f"the prompt has {len(prompt)} tokens, but the context holds "
                f"{self._executor.info.n_ctx} with the answer: use a shorter prompt, or a "
                "larger --ctx if the model allows it"
            )

    def _is_full(self, max_tokens: int | None) -> bool:
        return self.timings.tokens == max_tokens or len(self._cached) >= self._executor.info.n_ctx

    def _prefill(
        self, prompt: Sequence[int], n_best: int, cancelled: Callable[[], bool]
    ) -> StepResult | None:
        """Decode what of the prompt is not cached; the result of its last token, None if cancelled."""
        start = time.perf_counter()
        n_same = min(_common(self._cached, prompt), len(prompt) - 1)
        self.timings.cached_tokens = n_same
        forget = [KvOp(self._sequence, n_same)]
        del self._cached[n_same:]
        result = None
        for first in range(n_same, len(prompt), self._executor.info.n_batch):
            if cancelled():
                return None
            chunk = prompt[first : first + self._executor.info.n_batch]
            last = first + len(chunk) == len(prompt)
            result = self._step(chunk, [len(chunk) - 1] if last else [], n_best, forget)
            forget = []
        self._first_token_at = time.perf_counter()
        self.timings.prompt_s = self._first_token_at - start
        return result

    def _decode(self, token: int, n_best: int) -> StepResult:
        result = self._step([token], [0], n_best, [])
        self.timings.generate_s = time.perf_counter() - self._first_token_at
        self.timings.steps.append(result.stats)
        return result

    def _step(
        self, tokens: Sequence[int], outputs: list[int], n_best: int, kv: list[KvOp]
    ) -> StepResult:
        first, n = len(self._cached), len(tokens)
        batch = Batch(
            np.array(tokens, np.int32),
            np.arange(first, first + n, dtype=np.int32),
            np.full(n, self._sequence, np.int32),
            outputs,
            min(n_best, self._executor.info.n_vocab),
            kv,
        )
        result = self._executor.step(batch)
        self._cached.extend(tokens)
        return result


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin alike with."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
