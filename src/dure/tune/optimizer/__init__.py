"""AdamW that computes on the processor, with its state in memory, while the backward pass still runs.

The optimizer is imported when it is first used: its native part alone needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dure.tune.optimizer.adamw import OffloadedAdamW

__all__ = ["OffloadedAdamW"]


def __getattr__(name: str) -> Any:
    """Return the optimizer, imported now."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dure.tune.optimizer import adamw

    return getattr(adamw, name)
