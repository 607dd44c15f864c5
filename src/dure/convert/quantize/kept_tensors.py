"""Keeps encoded tensors on disk, so that the next file, or one that was interrupted, takes less time.

Knows names, bytes and a limit. Refuses to know how tensors are encoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dure.whole_file import part_of

__all__ = ["KeptTensors"]

Bytes = npt.NDArray[np.uint8]

MOST_BYTES = 20_000_000_000
_PART_OF_FREE = 4  # of what is free on the disk, this part may be used
_READ_BYTES = 4 << 20


class KeptTensors:
    """A folder of encoded tensors; beyond a number of bytes those that were used longest ago go.

    A tensor is there whole or not at all. most_bytes: at most a quarter of what is free on the disk, beside
    reserved_bytes for the file that is written.
    """

    def __init__(
        self, directory: Path, most_bytes: int = MOST_BYTES, reserved_bytes: int = 0
    ) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        held = sum(size for _, size, _ in self._files())
        free = max(0, shutil.disk_usage(directory).free - reserved_bytes)
        self._most_bytes = min(most_bytes, held + free // _PART_OF_FREE)

    def has(self, key: str, size_bytes: int) -> bool:
        """Return whether a tensor is kept."""
        return _size_of(self.path_of(key)) == size_bytes

    def chunks(
        self, key: str, size_bytes: int, encode: Callable[[], Iterator[Bytes]]
    ) -> Iterator[Bytes]:
        """Yield a tensor's bytes: those that are kept, or else encoded now and kept.

        key: says everything that the bytes depend on.
        """
        path = self.path_of(key)
        if _size_of(path) == size_bytes:
            os.utime(path)
            yield from _read(path)
        elif size_bytes > self._most_bytes:
            yield from encode()
        else:
            self._make_room(size_bytes)
            yield from _teed(path, encode())

    def path_of(self, key: str) -> Path:
        """Return the file of a tensor, whether it is there or not."""
        return self._directory / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.tensor"

    def _make_room(self, size_bytes: int) -> None:
        files = sorted(self._files())
        held = sum(size for _, size, _ in files)
        for _, size, path in files:
            if held + size_bytes <= self._most_bytes:
                return
            path.unlink(missing_ok=True)
            held -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield (used when, bytes, path) of every file, those that were never finished too."""
        for path in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                yield found.st_mtime, found.st_size, path


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _read(path: Path) -> Iterator[Bytes]:
    with path.open("rb", buffering=0) as file:
        while data := file.read(_READ_BYTES):
            yield np.frombuffer(data, np.uint8)


def _teed(path: Path, chunks: Iterator[Bytes]) -> Iterator[Bytes]:
    """Yield the chunks, and write them to a file that is there when all have come.

    What cannot be kept, on a full disk, is made nevertheless.
    """
    part = part_of(path)
    file = None
    try:
        with contextlib.suppress(OSError):
            file = part.open("wb", buffering=0)
        for chunk in chunks:
            if file and not _written(file.fileno(), chunk):
                file.close()
                file = None
            yield chunk
        if file:
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
                part.replace(path)
    finally:
        if file:
            file.close()
        part.unlink(missing_ok=True)


def _written(descriptor: int, chunk: Bytes) -> bool:
    data = memoryview(chunk).cast("B")  # type: ignore[arg-type]  # numpy's stubs lack buffers
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return False
    return True
