"""Memory that runs out: which error that is, and which switch makes the run fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from dure.errors import ResourceError
from dure.tune.settings import TuneMethod, TuneSettings

__all__ = ["memory_faults", "smaller_switch"]

_SAID = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE
)


@contextmanager
def memory_faults(settings: TuneSettings, then: Callable[[], str]) -> Iterator[None]:
    """Report that memory ran out. then: what the same command does the next time."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_cuda = isinstance(error, torch.OutOfMemoryError)
        if not (is_cuda or isinstance(error, MemoryError) or _SAID.search(str(error))):
            raise
        where = "the GPU's memory" if is_cuda else "memory"
        raise ResourceError(
            f"the run does not fit into {where}",
            f"{smaller_switch(settings)}; `dure tune --plan` says what it needs. {then()}",
        ) from None


def smaller_switch(settings: TuneSettings) -> str:
    """Return what to add or change so that a run needs less memory, what costs least first."""
    if settings.batch > 1:
        rows = settings.rows_per_step
        return f"use --batch 1 --accumulate {rows}, which learns the same"
    if not settings.checkpointing:
        return "add --checkpointing, which computes a third more"
    if settings.method is TuneMethod.FULL:
        return "use --lora, which learns small matrices beside the model's"
    return "use a smaller --ctx, or a smaller model"
