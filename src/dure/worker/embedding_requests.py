"""Embeds texts with an engine: a request for each, whose answer is a vector."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import numpy as np

from dure.engine.adapters import AdapterSet
from dure.errors import EngineError, revived
from dure.generate.request import Done, Embedded, Failed, Request
from dure.worker.pending import PendingAnswer

__all__ = ["embeddings"]


async def embeddings(
    submit: Callable[[Request], PendingAnswer],
    inputs: Sequence[Sequence[int]],
    adapters: AdapterSet,
) -> list[list[float]]:
    """Return a pooled embedding of each input's tokens. Raises what `submit` does; none goes on then."""
    answers: list[PendingAnswer] = []
    try:
        for tokens in inputs:
            answers.append(submit(_embedding_request(tokens, adapters)))
        return [await _embedding(answer) for answer in answers]
    finally:
        for answer in answers:
            answer.cancel()


def _embedding_request(tokens: Sequence[int], adapters: AdapterSet) -> Request:
    return Request(
        id=f"embed-{secrets.token_hex(8)}",
        prompt=list(tokens),
        embed=True,
        cache_prompt=False,
        adapters=adapters,
    )


async def _embedding(answer: PendingAnswer) -> list[float]:
    async for event in answer:
        match event:
            case Embedded():
                return [float(x) for x in np.frombuffer(event.values, np.float32)]
            case Failed():
                raise revived(event.error)
            case Done():
                break
    raise EngineError("the embedding was cancelled")
