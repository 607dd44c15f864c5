"""Qwen2 and Qwen2.5: docs/decisions/0004."""

from __future__ import annotations

from dure.model.architectures.base import (
    AFTER_ATTENTION,
    AFTER_DENSE,
    ATTENTION,
    DENSE,
    NORMS,
    Architecture,
)

__all__ = ["ARCHITECTURE"]

ARCHITECTURE = Architecture(
    "qwen2",
    tensors={**NORMS, **ATTENTION, **DENSE},
    reduction_points=(AFTER_ATTENTION, AFTER_DENSE),
    shard_name="exaone",  # qwen2's query rows must be n_embd; exaone's graph is the same
)
