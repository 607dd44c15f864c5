"""This process's memory: the most it ever had, its large blocks in huge pages, and what may not be swapped.

llama.cpp asks for its memory itself; its blocks are found in the kernel's list of what is mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import resource
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dure.engine.environment import says_huge_pages

__all__ = ["lock_all", "locked_bytes", "peak_bytes", "want_huge_pages"]

_LARGE = 8 << 20  # bytes; looking up the pages of a smaller block costs little
_ANONYMOUS = 5  # words of its line; where a file is mapped there is a sixth
_MLOCK_ONFAULT = 1  # what is there, and the rest when it is


def peak_bytes() -> int:
    """Peak resident memory of this process in bytes.

    Linux's own figure for this program (VmHWM): getrusage's would count the parent's memory, where
    the parent was larger when it started us.
    """
    if (told := _told("VmHWM")) is not None:
        return told
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def want_huge_pages() -> None:
    """Have this process's large blocks become huge pages when they are written for the first time.

    For a process that was not started `with_huge_pages`. The kernel may leave it unheeded, which costs
    speed and nothing else; a user's own choice stays.
    """
    if sys.platform == "linux" and not says_huge_pages(os.environ):
        for start, stop in _blocks(_LARGE):
            _libc().madvise(start, stop - start, mmap.MADV_HUGEPAGE)


def lock_all() -> None:
    """Keep all that is not a file's from being swapped out, as far as the system lets us (Linux)."""
    for start, stop in _blocks(0):
        _libc().mlock2(start, stop - start, _MLOCK_ONFAULT)


def locked_bytes() -> int:
    """How much of this process's memory is locked; 0 where the system does not tell."""
    return _told("VmLck") or 0


def _told(name: str) -> int | None:
    """Bytes that Linux tells about this process under a name."""
    status = Path("/proc/self/status")
    found = status.exists() and re.search(rf"{name}:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found else None


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = libc.mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def _blocks(least: int) -> Iterator[tuple[int, int]]:
    """Addresses of the private, writable blocks of so many bytes that are no file's."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) == _ANONYMOUS and words[1] == "rw-p":
            start, stop = (int(address, 16) for address in words[0].split("-"))
            if stop - start >= least:
                yield start, stop
