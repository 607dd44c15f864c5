"""What a process is told of the others by its environment: the variables of torchrun, and one of ours.

Imports no torch.
"""

from __future__ import annotations

import os
import signal

__all__ = ["OURS", "STOP", "TOLD", "is_first", "is_ours", "n_started"]

OURS = "DURE_TUNE_STARTED"
"""Is set where `dure tune --gpus` has started the processes."""

TOLD = "dure/told"
"""The key under which the process is kept that has told an error."""

STOP = signal.SIGTERM
"""What a process gets when the one that started it is gone."""

_NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def n_started() -> int:
    """Return how many processes were started together, of which this is one; 1 if it is alone."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _NEEDED) else 1


def is_first() -> bool:
    """Return whether this is the first of the processes, or alone."""
    return n_started() == 1 or os.environ["RANK"] == "0"


def is_ours() -> bool:
    """Return whether `dure tune --gpus` has started them."""
    return OURS in os.environ
