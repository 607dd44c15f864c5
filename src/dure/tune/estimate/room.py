"""The memory that a run may have: what is free for this process, with what it holds already."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import psutil
import torch

from dure.hardware.probe import probe
from dure.tune.estimate.estimates import MemoryEstimate, Room
from dure.tune.loop.losses import Arith

__all__ = ["rooms_of"]


def rooms_of(
    memory: MemoryEstimate, arithmetic: Arith, available_bytes: int | None = None
) -> tuple[Room, ...]:
    """Return the rooms of a run: first of the device that computes. available_bytes: there, if known."""
    if arithmetic.device.type == "cpu":
        return (
            Room(
                "memory",
                memory.peak_bytes,
                _free_bytes() if available_bytes is None else available_bytes,
            ),
        )
    free = int(torch.cuda.mem_get_info()[0]) if available_bytes is None else available_bytes
    return (
        Room("the GPU's memory", memory.gpu_bytes, free),
        Room("memory", memory.beside_gpu_bytes, _free_bytes()),
    )


def _free_bytes() -> int:
    """Return what this process may hold: its own bytes, and those that are free for it."""
    held = psutil.Process(os.getpid()).memory_info()
    rss = int(held.rss)
    limited = _limits({resource.RLIMIT_AS: held.vms, resource.RLIMIT_DATA: held.data})
    return rss + min([probe().available_bytes, *limited])


def _limits(used: dict[int, int]) -> Iterator[int]:
    """Yield what `ulimit -v` and `ulimit -d` leave, which count what is promised but not yet used too."""
    for kind, size in used.items():
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            yield max(0, limit - size)
