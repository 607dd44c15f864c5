"""Describes a GPU that llama.cpp can compute on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Gpu"]


@dataclass(frozen=True)
class Gpu:
    """A device as llama.cpp describes it.

    name: llama.cpp's, as CUDA0 or Vulkan0. description: its maker's, as NVIDIA GeForce RTX 3090.
    shares_ram: its memory is the machine's own, as of a graphics unit within a processor.
    """

    name: str
    description: str
    free_bytes: int
    total_bytes: int
    shares_ram: bool = False
