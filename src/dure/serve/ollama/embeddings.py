"""Texts to vectors, as Ollama wants them: shortened to fit, cut, of length 1.

Refuses to know HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dure.errors import ContextError, UsageError
from dure.serve.ollama.options import Options, sampling_of
from dure.serve.state import ServerState

__all__ = ["embedded", "normalized"]


async def embedded(
    server: ServerState, texts: Sequence[str], options: Options | None, *, truncate: bool
) -> tuple[list[list[float]], int]:
    """A vector for every text, and how many tokens they are.

    truncate: what does not fit the context is left out at the end of a text, as is Ollama's way.
    Raises ContextError without it, UsageError naming an option that cannot be honoured, and
    ForbiddenError where the model does not embed.
    """
    model = server.embedder()
    info = model.engine.info
    sampling_of(options, server.sampling, info.n_ctx)
    n_ctx = (options.num_ctx if options else None) or info.n_ctx
    tokens = [await model.tokenize(text) for text in texts]
    for index, found in enumerate(tokens):
        if not found:
            raise UsageError(f"input[{index}] is empty: give some text")
        if len(found) > n_ctx and not truncate:
            raise ContextError(
                f"input[{index}] has {len(found)} tokens, more than the context of {n_ctx}: "
                "shorten it, or say truncate",
                n_prompt=len(found),
                n_ctx=n_ctx,
            )
    fitting = [found[:n_ctx] for found in tokens]
    vectors = await model.engine.embed(fitting) if fitting else []
    return vectors, sum(len(found) for found in fitting)


def normalized(vector: Sequence[float], dimensions: int | None = None) -> list[float]:
    """The first `dimensions` numbers, or all, scaled to a length of 1; nothing stays nothing."""
    kept = vector[:dimensions]
    length = math.sqrt(math.fsum(x * x for x in kept))
    return [x / length for x in kept] if length else list(kept)
