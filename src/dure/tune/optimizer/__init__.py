"""AdamW that computes on the processor, with its state in memory, while the backward pass still runs."""

from dure.tune.optimizer.adamw import OffloadedAdamW

__all__ = ["OffloadedAdamW"]
