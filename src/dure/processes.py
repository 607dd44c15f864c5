"""Processes as the kernel knows them: which is which, how long each runs, and ends that are tied together.

Knows the clock that counts from the machine's start: the time of day may be set at any moment.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["Moment", "end_with_parent", "identity_of", "since_boot_s"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ENDED = ("Z", "X")  # states of a process whose parent has not asked for its end
_START = 22  # the field of /proc/PID/stat, counted from 1: ticks from boot to the process's start


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that started it ends; Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def identity_of(pid: int) -> str:
    """Return what tells a process from every other of the same number, whatever the clock is set to.

    "" if there is no such process, or it has ended.
    """
    if sys.platform != "linux":
        return _identity_elsewhere(pid)
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
    except OSError:
        return ""
    fields = after_name.split()
    return "" if fields[0] in _ENDED else f"{_boot()}:{fields[_START - 3]}"


def _identity_elsewhere(pid: int) -> str:
    import psutil  # costs more time than all else here

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return f"{process.create_time()}"  # the kernel keeps the time at the start
    except psutil.NoSuchProcess:
        return ""


class Moment(NamedTuple):
    """A point in time. time: of day, in seconds since 1970. boot: names the start of the machine from which
    since_boot_s counts; "" if it has no name.
    """

    time: float
    boot: str = ""
    since_boot_s: float = 0.0

    @classmethod
    def now(cls) -> Moment:
        """Return this one."""
        return cls(time.time(), _boot(), since_boot_s())

    def after(self, seconds: float) -> Moment:
        """Return the moment some seconds later."""
        return Moment(self.time + seconds, self.boot, self.since_boot_s + seconds)

    def has_come(self, now: Moment) -> bool:
        """Return whether it is now or in the past: by the time of day only if the machine has restarted."""
        if self.boot and self.boot == now.boot:
            return self.since_boot_s <= now.since_boot_s
        return self.time <= now.time


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def since_boot_s() -> float:
    """Return the seconds since this machine started, the same for all of its processes."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
