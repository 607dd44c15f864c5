"""Qwen3, dense."""

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
    "qwen3",
    tensors={**NORMS, **ATTENTION, **DENSE},
    reduction_points=(AFTER_ATTENTION, AFTER_DENSE),
)
