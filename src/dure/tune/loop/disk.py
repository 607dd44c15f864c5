"""What of a run is written whole or not at all: folders, and what is said of a disk that refuses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dure.errors import ResourceError
from dure.whole_file import part_of

__all__ = ["disk_faults", "new_folder", "settled"]


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to be filled; it has its name only if all of it is on the disk."""
    part = part_of(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        settled(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def settled(part: Path, path: Path) -> None:
    """Give a folder its name, in the place of what had it, once all of it is on the disk."""
    for one in [*(p for p in part.rglob("*") if p.is_file()), part]:
        _sync(one)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    part.rename(path)
    _sync(path.parent)


@contextmanager
def disk_faults(what: str, then: str) -> Iterator[None]:
    """Report a disk that is full, or refuses. then: what the same command does the next time."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise ResourceError(
            f"{what} cannot be written: {why}",
            f"make room, and give the same command again: it {then}",
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
