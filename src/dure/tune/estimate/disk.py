"""The disk that a run takes: its checkpoints, and what it leaves."""

from __future__ import annotations

import torch

from dure.model.gguf import GgufFile
from dure.tune.optimizer.kept import state_bytes
from dure.tune.settings import TuneMethod, TuneSettings

__all__ = ["run_bytes"]

_WEIGHT_BYTES = 4  # of a weight in a checkpoint and, at most, in the result's folder


def run_bytes(settings: TuneSettings, header: GgufFile) -> tuple[int, int]:
    """Return the most that lies on disk during a run, and what is left of it at its end, about.

    header: of the model. While a checkpoint is written the one before it is there too, and the weights of
    the best one.
    """
    learned = [torch.Size(shape) for shape in _learned(settings, header)]
    weights = sum(_WEIGHT_BYTES * shape.numel() for shape in learned)
    state = sum(state_bytes(shape, torch.float32, settings.state) for shape in learned)
    return 3 * weights + 2 * state, 3 * weights + state


def _learned(settings: TuneSettings, header: GgufFile) -> list[tuple[int, ...]]:
    tensors = header.tensors.values()
    if settings.method is not TuneMethod.LORA:
        return [tensor.shape for tensor in tensors]
    adapted = [t.shape for t in tensors if t.name.startswith("blk.") and len(t.shape) == 2]
    return [(settings.rank, n) for shape in adapted for n in shape]
