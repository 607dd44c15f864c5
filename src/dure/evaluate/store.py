"""Results of windows on disk, one file each: written whole, checked when they are read, deleted when old.

Whatever was finished is not computed again, by this command or the next. Refuses to know what is in them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from dure.errors import ResourceError
from dure.kept_work import KeptWork, work_in
from dure.places import cache_directory, free_bytes
from dure.sizes import compared
from dure.whole_file import write_whole

__all__ = ["WindowStore", "check_room", "evaluation_directory", "kept_evaluations"]

_DIGEST_BYTES = 16
MOST_BYTES = 8_000_000_000  # of all results; what was not used for longest is deleted


def evaluation_directory() -> Path:
    """Return where results are kept."""
    return cache_directory() / "evaluations"


def kept_evaluations() -> list[KeptWork]:
    """Return the results in the cache: those of a model on a text, or of its writing one, are a piece."""
    directory = evaluation_directory()
    return work_in("results of judging", directory.iterdir() if directory.is_dir() else ())


class WindowStore:
    """The results of one thing's windows, by number. key: all that they depend on."""

    def __init__(self, key: str, directory: Path | None = None) -> None:
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        self._folder = (directory or evaluation_directory()) / name

    def load(self, number: int) -> bytes | None:
        """Return a result; None if it is missing or damaged."""
        path = self._path(number)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if _digest(content) != digest:
            return None
        with suppress(OSError):  # another user's, perhaps
            os.utime(self._folder)
        return content

    def save(self, number: int, content: bytes) -> None:
        """Keep a result. Raises ResourceError if it cannot be written."""
        try:
            write_whole(self._path(number), _digest(content) + content)
        except OSError as error:
            raise ResourceError(
                f"{self._folder} cannot be written: {error.strerror}",
                "make room there, or name another directory with DURE_CACHE",
            ) from error

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06}"


def check_room(needed_bytes: int, directory: Path | None = None) -> None:
    """Delete old results, and check that there is room for more. Raises ResourceError."""
    directory = directory or evaluation_directory()
    _prune(directory)
    free = free_bytes(directory)
    if needed_bytes > free:
        needs, has = compared(needed_bytes, free)
        raise ResourceError(
            f"what the original gives may take {needs}, but {has} are free in {directory}",
            "use a smaller --chunks, or name another directory with DURE_CACHE",
        )


def _prune(directory: Path) -> None:
    with suppress(OSError):
        folders = sorted(directory.iterdir(), key=lambda path: -path.stat().st_mtime)
        total = 0
        for folder in folders:
            total += sum(path.stat().st_size for path in folder.iterdir())
            if total > MOST_BYTES:
                shutil.rmtree(folder, ignore_errors=True)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
