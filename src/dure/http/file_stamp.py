"""Tells whether files have changed since they were read, without reading them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FileStamp", "stamp_of"]

FileStamp = tuple[tuple[int, int, int] | None, ...]
"""Of each file its time, size and inode; None if it cannot be asked."""


def stamp_of(*paths: Path) -> FileStamp:
    """Return the files' stamp: it differs from an earlier one if a file has changed."""
    return tuple(map(_stamp, paths))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
