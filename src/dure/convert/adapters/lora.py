"""What LoRA is: two thin matrices whose product is added to a weight.

Knows their shapes and how they are stacked and cut. Refuses to know names and files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dure.model.gguf import TensorSpec

Floats = npt.NDArray[np.float32]


class Factors(NamedTuple):
    """a: float32 [experts,] rank, columns. b: float32 [experts,] rows, rank."""

    a: Floats
    b: Floats


@dataclass(frozen=True)
class Change:
    """What an adapter adds to a tensor: scale · b · a. read: gets the factors from the disk."""

    target: TensorSpec
    rank: int
    scale: float
    read: Callable[[], Factors]


def rotated_pairs(b: Floats, n_heads: int) -> Floats:
    """Put each head's rows into llama.cpp's order for Llama: partners in RoPE lie side by side."""
    rows, rank = b.shape
    return b.reshape(n_heads, 2, rows // n_heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)


def per_expert(a: Floats, b: Floats, n_experts: int) -> Factors:
    """Take apart what peft keeps in one matrix for all experts.

    a: float32 [experts · rank, columns], expert by expert. b: float32 [rows, rank · experts], rank by rank.
    Source: peft 0.21 `ParamWrapper.get_delta_factors`.
    """
    stacked_b = b.reshape(len(b), -1, n_experts).transpose(2, 0, 1)
    return Factors(a.reshape(n_experts, -1, a.shape[-1]), np.ascontiguousarray(stacked_b))
