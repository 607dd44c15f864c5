"""Computes the embeddings of prompts, a chunk of one prompt at a time.

Knows how hidden states are pooled. Refuses to know which prompt is next.
"""

from __future__ import annotations

import numpy as np

from dure.engine.executor import Batch, Executor, Floats, StepResult
from dure.generate.answers import ActiveAnswers
from dure.generate.kv_actions import KvActions
from dure.generate.request import Embedded
from dure.generate.scheduler import RunningRequest, Scheduler, StepTokens

__all__ = ["EmbeddingLoop"]


class EmbeddingLoop:
    """The embeddings of one engine's loop.

    pooling: of the hidden states of a prompt's tokens: "last" and "cls" take that of the last and of the
    first one, "mean" their mean.
    """

    def __init__(
        self,
        executor: Executor,
        scheduler: Scheduler,
        answers: ActiveAnswers,
        kv: KvActions,
        pooling: str,
    ) -> None:
        self._executor, self._scheduler, self._pooling = executor, scheduler, pooling
        self._answers, self._kv = answers, kv

    def step(self, running: RunningRequest) -> None:
        """Compute one chunk of a prompt; end its request with its embedding, if that is complete."""
        start, stop, has_outputs = self._chunk(running)
        tokens = running.tokens[start:stop]
        result = self._executor.step(
            Batch(
                np.array(tokens, np.int32),
                np.arange(start, stop, dtype=np.int32),
                np.full(len(tokens), running.slot, np.int32),
                range(len(tokens)) if has_outputs else (),
                top_k=1,
                kv=self._kv.take(),
                embed=has_outputs,
                adapters=running.request.adapters,
            )
        )
        self._scheduler.advance([StepTokens(running, start, tuple(tokens), output=False)])
        summed = self._add(running, result)
        if summed is not None and (stop == running.n_prompt or self._pooling == "cls"):
            values = summed / np.float32(stop if self._pooling == "mean" else 1)
            self._answers.end(running)
            self._answers.emit(Embedded(running.request.id, values.tobytes()))

    def _add(self, running: RunningRequest, result: StepResult) -> Floats | None:
        """Add a step's hidden states to the sum of a prompt's, and return that: float32 [n_embd]."""
        answer = self._answers[running.request.id]
        if result.embeddings is not None:
            chunk = result.embeddings.sum(axis=0, dtype=np.float32)
            answer.embedding = chunk if answer.embedding is None else answer.embedding + chunk
        return answer.embedding

    def _chunk(self, running: RunningRequest) -> tuple[int, int, bool]:
        """Return the next positions, half-open, and whether their hidden states are needed.

        If they are, llama.cpp gives them for every token of a step, and the outputs of a step are limited.
        """
        start, n, info = running.n_cached, running.n_prompt, self._executor.info
        if self._pooling == "mean":
            return start, min(start + info.n_outputs, n), True
        if self._pooling == "cls":
            return 0, 1, True
        if start < n - 1:
            return start, min(start + info.n_batch, n - 1), False
        return start, n, True
