"""Who started this process: a rank must not outlive it, since MPI would wait for it for ever."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from functools import cache

import psutil

__all__ = ["LOOK_FOR_STARTER_S", "end_if_alone", "end_with_guard", "note_starters"]

LOOK_FOR_STARTER_S = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@cache
def note_starters() -> tuple[int, ...]:
    """The processes that started this one, up to mpiexec's own proxy, as they were at first."""
    return _ancestors()


def _ancestors() -> tuple[int, ...]:
    pids: list[int] = []
    for process in psutil.Process().parents():
        pids.append(process.pid)
        if process.name().startswith("hydra"):
            break
    return tuple(pids)


def end_with_guard() -> None:
    """Have the kernel end this process with its guard: while MPI starts, nothing here could look."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # it is gone already
        os._exit(1)


def end_if_alone() -> None:
    """End this process at once when one of these is gone: nobody would end it."""
    started_by = note_starters()
    if _ancestors()[: len(started_by)] != started_by:
        os._exit(1)
