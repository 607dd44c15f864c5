"""Llama, Mistral and Mixtral: dense, or a mixture of experts."""

from __future__ import annotations

from dure.model.architectures.base import (
    AFTER_ATTENTION,
    AFTER_DENSE,
    AFTER_EXPERTS,
    ATTENTION,
    DENSE,
    EXPERTS,
    NORMS,
    Architecture,
)

__all__ = ["ARCHITECTURE"]

ARCHITECTURE = Architecture(
    "llama",
    tensors={**NORMS, **ATTENTION, **DENSE, **EXPERTS},
    reduction_points=(AFTER_ATTENTION, AFTER_DENSE, AFTER_EXPERTS),
)
