"""The C library's free memory, which is of no use to others while this process keeps it."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["give_back"]


def give_back() -> None:
    """Give free memory back to the system, as what reading a large vocabulary leaves; glibc alone can."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
