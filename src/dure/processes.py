"""Processes as the kernel knows them: which is which, how long each runs, and ends that are tied together.

Knows the clock that counts from the machine's start: the time of day may be set at any moment.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from pathlib import Path

import psutil

__all__ = ["end_with_parent", "identity_of", "since_boot_s"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_START = 22  # the field of /proc/PID/stat, counted from 1: ticks from boot to the process's start


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that started it ends; Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def identity_of(pid: int) -> str:
    """Return what tells a process from every other of the same number, whatever the clock is set to.

    "" if there is no such process, or it has ended.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        if sys.platform != "linux":
            return f"{process.create_time()}"  # the kernel keeps the time at the start
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
        return f"{boot}:{after_name.split()[_START - 3]}"
    except (psutil.NoSuchProcess, OSError):
        return ""


def since_boot_s() -> float:
    """Return the seconds since this machine started, the same for all of its processes."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
