"""Look at this machine. The only module that does; everything else takes a `Machine`."""

from __future__ import annotations

import os

import psutil

from dure.hardware.machine import Machine

__all__ = ["probe"]


def probe() -> Machine:
    """The machine this process runs on."""
    memory = psutil.virtual_memory()
    return Machine(_cores(), int(memory.total), int(memory.available))


def _cores() -> int:
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
