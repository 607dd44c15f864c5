"""gpt-oss: a mixture of experts with biases and attention sinks, and an output of its own."""

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
    "gpt-oss",
    tensors={**NORMS, **ATTENTION, **EXPERTS},
    reduction_points=(AFTER_ATTENTION, AFTER_EXPERTS),
    ffn_length_key="expert_feed_forward_length",
    ties_output=False,
)
