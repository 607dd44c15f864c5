"""Computes what a model gives to the tokens of a prompt itself: their logprobs, or all logits.

Knows how a prompt is divided, and which row belongs to which token. Refuses to know which prompt is next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dure.engine.executor import TOP_K, Batch, Executor, StepResult, TopK
from dure.generate.answers import ActiveAnswers
from dure.generate.kv_actions import KvActions
from dure.generate.request import PromptLogits, PromptLogprobs
from dure.generate.scheduler import RunningRequest, Scheduler, StepTokens

__all__ = ["PromptReader"]


class PromptReader:
    """Reads the prompts of one engine's loop, a chunk of one prompt at a time."""

    def __init__(
        self, executor: Executor, scheduler: Scheduler, answers: ActiveAnswers, kv: KvActions
    ) -> None:
        self._executor, self._scheduler, self._answers, self._kv = executor, scheduler, answers, kv

    def step(self, running: RunningRequest) -> None:
        """Compute one chunk of a prompt, and add its event; end a request for nothing but logits."""
        request, start = running.request, running.n_cached
        n = min(running.n_to_read, self._executor.info.n_outputs)
        tokens = running.tokens[start : start + n]
        result = self._executor.step(self._batch(running, tokens))
        self._scheduler.advance([StepTokens(running, start, tuple(tokens), output=False)])
        if not request.prompt_logits:
            following = running.tokens[start + 1 : start + n + 1]
            self._answers.emit(self._logprobs(running, start + 1, following, result))
            self._answers.emit_progress(running)
            return
        values = np.stack([self._executor.logits(row) for row in range(n)])
        self._answers.emit(PromptLogits(request.id, start, values.tobytes()))
        if not running.n_to_read:
            self._answers.finish(running, "length")

    def _batch(self, running: RunningRequest, tokens: Sequence[int]) -> Batch:
        request, info = running.request, self._executor.info
        start, n = running.n_cached, len(tokens)
        n_best = 1 if request.prompt_logits else max(TOP_K, request.prompt_logprobs or 0)
        return Batch(
            np.array(tokens, np.int32),
            np.arange(start, start + n, dtype=np.int32),
            np.full(n, running.slot, np.int32),
            range(n),
            top_k=min(n_best, info.n_vocab),
            kv=self._kv.take(),
            adapters=request.adapters,
        )

    def _logprobs(
        self, running: RunningRequest, start: int, tokens: Sequence[int], result: StepResult
    ) -> PromptLogprobs:
        n_top = running.request.prompt_logprobs or 0
        own = [self._logprob(token, row, result.rows[row]) for row, token in enumerate(tokens)]
        tops = tuple(_best(top, n_top) for top in result.rows)
        return PromptLogprobs(running.request.id, start, tuple(own), tops)

    def _logprob(self, token: int, row: int, top: TopK) -> float:
        at = np.flatnonzero(top.ids == token)
        logits = top.logits[at] if at.size else self._executor.logits(row)[[token]]
        return float((logits - top.log_sum_exp)[0])


def _best(top: TopK, n: int) -> tuple[tuple[int, float], ...]:
    logprobs = top.logits[:n] - top.log_sum_exp
    return tuple(zip(top.ids[:n].tolist(), logprobs.tolist(), strict=True))
