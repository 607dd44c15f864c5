"""Describes a GPU that llama.cpp can compute on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Gpu", "gpu_environment"]

# What drivers and llama.cpp read: which cards are seen, and which driver is used.
_VARIABLES = ("CUDA_", "GGML_", "HIP_", "HSA_", "MESA_", "NVIDIA_", "ROCR_", "VK_")


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


def gpu_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment a process needs that computes on a GPU."""
    return {name: text for name, text in environment.items() if name.startswith(_VARIABLES)}
