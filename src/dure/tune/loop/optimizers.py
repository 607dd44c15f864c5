"""The optimizer of a run: AdamW in which only matrices decay, with clipping by the global norm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dure.errors import UsageError
from dure.tune.settings import StateFormat, TuneSettings

__all__ = ["ClippedAdamW", "optimizer_of"]


class ClippedAdamW(torch.optim.AdamW):  # type: ignore[misc]  # torch is not followed
    """torch's AdamW, with clipping as a part of the step. last_norm: before clipping, of the last step."""

    def __init__(self, params: Iterable[Any], *, max_norm: float | None, **settings: Any) -> None:
        super().__init__(params, fused=True, **settings)
        self._max_norm = max_norm
        self.last_norm = 0.0

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        """Let gradients only add up: for all passes of a step but the last."""
        yield

    def step(self, closure: Any = None) -> Any:
        """Clip, and change the weights."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        limit = float("inf") if self._max_norm is None else self._max_norm
        self.last_norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        return super().step(closure)


def optimizer_of(model: nn.Module, settings: TuneSettings) -> ClippedAdamW:
    """Return the optimizer of the weights that are learned."""
    if settings.state is not StateFormat.FP32:
        raise UsageError(f"--state {settings.state} is not there yet", "use --state fp32")
    learned = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learned if p.dim() >= 2]
    vectors = [p for p in learned if p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return ClippedAdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(0.9, settings.beta2),
        max_norm=settings.clip or None,
    )
