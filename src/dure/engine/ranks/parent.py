"""Who started this process: a rank must not outlive it, since MPI would wait for it for ever.

Knows the kernel's tree of processes. Refuses to know what a rank does.
"""

from __future__ import annotations

import os
import signal
from functools import cache

import psutil

from dure.processes import end_with_parent

__all__ = ["CHECK_PARENT_S", "end_if_orphaned", "end_with_guard", "remember_parents"]

CHECK_PARENT_S = 1.0


@cache
def remember_parents() -> tuple[int, ...]:
    """Return the processes that started this one, up to mpiexec's own proxy, as they were at first."""
    return _parents()


def _parents() -> tuple[int, ...]:
    pids: list[int] = []
    for process in psutil.Process().parents():
        pids.append(process.pid)
        if process.name().startswith("hydra"):
            break
    return tuple(pids)


def end_with_guard() -> None:
    """Have the kernel end this process with its guard: while MPI starts, no code here could notice."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() == 1:  # it is gone already
        os._exit(1)


def end_if_orphaned() -> None:
    """End this process at once if one of its parents is gone: nobody else would end it."""
    parents = remember_parents()
    if _parents()[: len(parents)] != parents:
        os._exit(1)
