"""Work that is kept in the cache: it can be done again, and is listed and deleted piece by piece.

Refuses to know what a piece is, and which ones are old.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dure.errors import ResourceError

__all__ = ["KeptWork", "delete_work", "work_in"]


@dataclass(frozen=True)
class KeptWork:
    """A file or a folder. kind: what it is, for a person, in the plural. used: when last, since 1970."""

    kind: str
    path: Path
    size_bytes: int
    used: float


def work_in(kind: str, paths: Iterable[Path]) -> list[KeptWork]:
    """Return the work of one kind in these files and folders; what is deleted meanwhile is left out."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            files = [one.stat() for one in path.rglob("*")] if path.is_dir() else [status]
            used = max([status.st_mtime, *(one.st_mtime for one in files)])
            found.append(KeptWork(kind, path, sum(one.st_size for one in files), used))
    return found


def delete_work(work: Iterable[KeptWork]) -> None:
    """Delete work; what is gone already does not matter. Raises ResourceError."""
    for one in work:
        try:
            if one.path.is_dir():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ResourceError(f"{error.filename} cannot be deleted: {error.strerror}") from error
