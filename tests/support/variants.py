"""Writes a model that differs a little from another one, as a quantization would."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from dure.model.gguf import open_gguf

__all__ = ["write_variant"]


def write_variant(
    path: Path, source: Path, noise: float, tensor: str = "blk.1.ffn_down.weight"
) -> None:
    """Write `source` with noise in one float16 tensor, as a part of each of its weights."""
    shutil.copy(source, path)
    with open_gguf(path) as gguf:
        place = gguf.tensors[tensor]
        assert place.type.name == "F16"
        weights = np.frombuffer(gguf.read(place, 0, place.size_bytes), np.float16)
    factors = 1 + noise * np.random.default_rng(0).standard_normal(weights.shape)
    with path.open("r+b") as file:
        file.seek(place.offset)
        file.write((weights * factors).astype(np.float16).tobytes())
