"""This process's memory: the most it ever had, its large blocks in huge pages, and what may not be swapped.

llama.cpp asks for its memory itself; its blocks are found in the kernel's list of what is mapped.
Knows Linux; elsewhere it does little. Refuses to know what lies in a block.
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

__all__ = ["give_back", "lock_all", "locked_bytes", "peak_bytes", "want_huge_pages"]

_LARGE = 8 << 20  # bytes; looking up the pages of a smaller block costs little
_ANONYMOUS = 5  # words of its line; a mapped file has a sixth
_MLOCK_ONFAULT = 1  # what is there, and the rest when it is


def peak_bytes() -> int:
    """Return the peak resident memory of this process in bytes.

    Linux's own figure for this program (VmHWM): getrusage's would count the parent's memory, if the
    parent was larger when it started us.
    """
    if (peak := _reported("VmHWM")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def want_huge_pages() -> None:
    """Ask for huge pages for this process's large blocks, from the first write to them on.

    For a process that was not started `with_huge_pages`. The kernel may refuse, which costs speed and
    nothing else; a user's own choice stays.
    """
    if sys.platform == "linux" and not says_huge_pages(os.environ):
        for start, stop in _blocks(_LARGE):
            _libc().madvise(start, stop - start, mmap.MADV_HUGEPAGE)


def give_back(start: int, size: int) -> None:
    """Give back the memory at an address, which is no file's: its pages hold zeros from now on (Linux)."""
    page = mmap.PAGESIZE
    first, stop = -(-start // page) * page, (start + size) // page * page
    if sys.platform == "linux" and first < stop:
        _libc().madvise(first, stop - first, mmap.MADV_DONTNEED)


def lock_all() -> None:
    """Lock all blocks that are no file's in memory, as far as the system lets us (Linux)."""
    for start, stop in _blocks(0):
        _libc().mlock2(start, stop - start, _MLOCK_ONFAULT)


def locked_bytes() -> int:
    """Return the bytes of this process's memory that are locked; 0 if the system does not say."""
    return _reported("VmLck") or 0


def _reported(name: str) -> int | None:
    """Return the bytes that Linux reports of this process under a name."""
    status = Path("/proc/self/status")
    match = status.exists() and re.search(rf"{name}:\s+(\d+) kB", status.read_text())
    return int(match[1]) * 1024 if match else None


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = libc.mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


def _blocks(least: int) -> Iterator[tuple[int, int]]:
    """Yield the addresses of private, writable blocks of at least `least` bytes that are no file's."""
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
