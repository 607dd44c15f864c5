"""The optimizer of a run: AdamW in which only matrices decay, with clipping by the global norm."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dure.hardware.probe import n_cpus
from dure.tune.optimizer import OffloadedAdamW
from dure.tune.settings import TuneSettings

__all__ = ["optimizer_of"]


def optimizer_of(model: nn.Module, settings: TuneSettings, n_processes: int = 1) -> OffloadedAdamW:
    """Return the optimizer of the weights that are learned. n_processes: that share this machine.

    It begins while the backward pass runs only if that is on another device: on one processor both want
    the same cores, and nothing is gained (docs/LOG.md). With several processes a gradient is not whole
    before the others have added theirs, so it waits for the end of the pass.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learned if p.dim() >= 2]
    vectors = [p for p in learned if p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    assert settings.lr is not None
    assert settings.beta2 is not None
    return OffloadedAdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(0.9, settings.beta2),
        state=settings.state,
        max_norm=settings.clip or math.inf,  # a norm is told in any case
        overlap=n_processes == 1 and any(p.device.type != "cpu" for p in learned),
        threads=max(1, n_cpus() // n_processes),
        seed=settings.seed,
    )
