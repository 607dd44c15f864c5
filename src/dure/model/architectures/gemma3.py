"""Gemma 3: scaled embeddings, and queries that the 27B model scales by its width."""

from __future__ import annotations

import math

from dure.model.architectures.base import (
    AFTER_ATTENTION,
    AFTER_DENSE,
    ATTENTION,
    DENSE,
    NORMS,
    Architecture,
    Shape,
)

__all__ = ["ARCHITECTURE"]

WIDTH_SCALED_N_LAYER = 62  # the 27B model: llama.cpp scales its queries by n_embd / n_head


def _query_correction(shape: Shape, n_head: int) -> float:
    """Return the factor that makes up for a shard's fewer heads on the same n_embd.

    llama.cpp takes n_embd / n_head for the width of a head.
    """
    if shape.n_layer != WIDTH_SCALED_N_LAYER:
        return 1.0
    return math.sqrt((shape.n_embd // n_head) / (shape.n_embd // shape.n_head))


ARCHITECTURE = Architecture(
    "gemma3",
    tensors={**NORMS, **ATTENTION, **DENSE},
    reduction_points=(AFTER_ATTENTION, AFTER_DENSE),
    embedding_scale=math.sqrt,
    query_correction=_query_correction,
)
