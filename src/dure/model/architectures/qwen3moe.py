"""Qwen3, a mixture of experts."""

from __future__ import annotations

from dure.model.architectures.base import (
    AFTER_ATTENTION,
    AFTER_EXPERTS,
    ATTENTION,
    EXPERTS,
    NORMS,
    Architecture,
)

__all__ = ["ARCHITECTURE"]

ARCHITECTURE = Architecture(
    "qwen3moe",
    tensors={**NORMS, **ATTENTION, **EXPERTS},
    reduction_points=(AFTER_ATTENTION, AFTER_EXPERTS),
    ffn_length_key="expert_feed_forward_length",
)
