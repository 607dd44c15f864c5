"""Embeds texts as Ollama does: shortened to fit, cut, of length 1.

Refuses to know HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dure.errors import UsageError, context_error
from dure.serve.ollama.requests import EmbeddingsRequest, EmbedRequest
from dure.serve.state import ServerState

__all__ = ["embedded", "normalized"]


async def embedded(
    server: ServerState,
    request: EmbedRequest | EmbeddingsRequest,
    texts: Sequence[str],
    *,
    truncate: bool,
) -> tuple[list[list[float]], int]:
    """Return a vector for every text of a request, and the number of their tokens.

    truncate: the end of a text that does not fit the context is left out.
    Raises ContextError without it, UsageError for an empty text, and ForbiddenError if the model does
    not embed.
    """
    model = server.embedder()
    info, options = model.engine.info, request.options
    n_ctx = min((options.num_ctx if options else None) or info.n_ctx, info.n_ctx)
    tokens = [await model.tokenize(text) for text in texts]
    for index, found in enumerate(tokens):
        if not found:
            raise UsageError(f"input[{index}] is empty", "give some text")
        if len(found) > n_ctx and not truncate:
            raise context_error(len(found), n_ctx, f"shorten input[{index}], or say truncate")
    fitting = [found[:n_ctx] for found in tokens]
    adapters = model.variant(request.model).adapters
    vectors = await model.engine.embed(fitting, adapters) if fitting else []
    return vectors, sum(len(found) for found in fitting)


def normalized(vector: Sequence[float], dimensions: int | None = None) -> list[float]:
    """Return the first `dimensions` numbers, or all, scaled to a length of 1; zeros stay zeros."""
    numbers = vector[:dimensions]
    length = math.sqrt(math.fsum(x * x for x in numbers))
    return [x / length for x in numbers] if length else list(numbers)
