"""How the optimizer keeps its state: a name that people type, and that the native code is chosen by.

Imports no torch.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["StateFormat"]


class StateFormat(StrEnum):
    """How the optimizer keeps its two moments."""

    FP32 = "fp32"
    BF16 = "bf16"
    EIGHT_BIT = "8bit"
