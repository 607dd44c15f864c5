"""A node's shards: files that come in chunks, each checked, and survive a cut line or a lost machine.

Knows one directory and what lies in it: `NAME.gguf` with `NAME.chunks`, the SHA-256 of each of its chunks.
While a shard is on its way, it is `NAME.part`, in its full size from the beginning; a chunk whose
SHA-256 is not noted has not come. Both files of a whole shard have the same time of change: if they have
not, somebody has written to it, and it is read and compared. Refuses to know who sends them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dure.cluster.node_api import CHUNK_BYTES, DIGEST_BYTES, shard_digest
from dure.errors import ResourceError, UsageError
from dure.places import free_bytes
from dure.sizes import compared

__all__ = ["HeldShard", "ShardStore"]

SPARE_BYTES = 256 << 20  # of the disk, that no shard may take
_MISSING = bytes(DIGEST_BYTES)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class HeldShard:
    """A shard in a store, whole or begun.

    chunks: the SHA-256 of each chunk, 32 bytes, zeros if it has not come. used: when it was last used,
    since 1970.
    """

    name: str
    size_bytes: int
    whole: bool
    chunks: bytes
    used: float

    @property
    def digest(self) -> str:
        """See `shard_digest`."""
        return shard_digest(self.chunks)


class ShardStore:
    """Keep the shards below one directory. quota_bytes: what all may take; 0 is as much as fits."""

    def __init__(self, directory: Path, quota_bytes: int = 0) -> None:
        self._directory, self._quota = directory, quota_bytes
        self._lock = threading.Lock()

    # ------------------------------------------------------------ reading

    def held(self, name: str) -> HeldShard | None:
        """Return a shard, or None if nothing of it is here. Raises UsageError if the name is none."""
        _check(name)
        for path, whole in ((self.path(name), True), (self._part(name), False)):
            with contextlib.suppress(OSError):
                status = path.stat()
                chunks = self._chunks(name).read_bytes()
                if len(chunks) == _n_chunks(status.st_size) * DIGEST_BYTES and not (
                    whole and _MISSING in _pieces(chunks)
                ):
                    return HeldShard(name, status.st_size, whole, chunks, status.st_atime)
        return None

    def all(self) -> list[HeldShard]:
        """Return every shard, the least recently used first. One that has changed is checked."""
        names = {path.stem for path in self._directory.glob("*.chunks")}
        for name in names:
            self._check_if_changed(name)
        shards = [held for name in names if (held := self.held(name)) is not None]
        return sorted(shards, key=lambda held: held.used)

    def path(self, name: str) -> Path:
        """Return the file of a whole shard."""
        return self._directory / f"{_check(name)}.gguf"

    def free_bytes(self) -> int:
        """Return how many bytes may still come."""
        free = free_bytes(self._directory) - SPARE_BYTES
        if self._quota:
            free = min(free, self._quota - sum(held.size_bytes for held in self.all()))
        return max(0, free)

    # ------------------------------------------------------------ receiving

    def begin(self, name: str, size_bytes: int) -> HeldShard:
        """Make room for a shard, or go on with one that was begun; return what is here of it.

        Raises ResourceError, before anything is sent, if it does not fit.
        """
        self._check_if_changed(name)
        with self._lock:
            held = self.held(name)
            if held is not None and held.size_bytes == size_bytes:
                return held
            self._delete(name)
            self._reserve(name, size_bytes)
            made = self.held(name)
            assert made is not None, "it was just made"
            return made

    def _reserve(self, name: str, size_bytes: int) -> None:
        free = self.free_bytes()
        if size_bytes <= 0:
            raise UsageError(f"a shard of {size_bytes} bytes is none")
        if size_bytes > free:
            needs, has = compared(size_bytes, free)
            raise ResourceError(
                f"{name} needs {needs}, and {self._directory} has room for {has}",
                "`dure cache prune` makes room, or raise the quota",
            )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._part(name).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            self._chunks(name).write_bytes(_MISSING * _n_chunks(size_bytes))
        except OSError as error:
            self._delete(name)
            raise _write_error(error, self._directory) from error

    def put(self, name: str, index: int, data: bytes, digest: bytes) -> None:
        """Write a chunk, unless another sender has; UsageError if its digest is another one, or it belongs
        nowhere.
        """
        held = self.held(name)
        if held is None:
            raise UsageError(f"{name} is not being sent", "begin it first")
        offset = index * CHUNK_BYTES
        if not 0 <= offset < held.size_bytes or len(data) != min(
            CHUNK_BYTES, held.size_bytes - offset
        ):
            raise UsageError(f"{name} has no chunk {index} of {len(data)} bytes")
        if hashlib.sha256(data).digest() != digest:
            raise UsageError(f"chunk {index} of {name} was damaged on its way", "send it again")
        if self._has(name, index, digest):
            return
        if held.whole:
            raise UsageError(f"{name} is not being sent", "begin it first")
        try:
            _write_at(self._part(name), offset, data)
            _write_at(self._chunks(name), index * DIGEST_BYTES, digest)
        except OSError as error:
            if not self._has(name, index, digest):
                raise _write_error(error, self._directory) from error

    def _has(self, name: str, index: int, digest: bytes) -> bool:
        held, at = self.held(name), index * DIGEST_BYTES
        return held is not None and held.chunks[at : at + DIGEST_BYTES] == digest

    def finish(self, name: str, digest: str) -> None:
        """Make a begun shard a whole one. Raises UsageError if a chunk is missing, or `digest` differs."""
        with self._lock:
            held = self.held(name)
            if held is None or _MISSING in _pieces(held.chunks):
                raise UsageError(f"{name} is not complete", "send what is missing")
            if held.digest != digest:
                self._delete(name)
                raise UsageError(
                    f"{name} is not what was sent before under that name", "begin anew"
                )
            if not held.whole:
                with self._part(name).open("rb") as file:
                    os.fsync(file.fileno())
                self._part(name).replace(self.path(name))
                self._note_unchanged(name)

    def use(self, name: str) -> Path:
        """Return the file of a whole shard, used now. Raises UsageError if it is not whole."""
        held = self.held(name)
        if held is None or not held.whole:
            raise UsageError(f"the shard {name} is not here", "start again, and it is sent")
        path = self.path(name)
        changed = path.stat().st_mtime_ns
        os.utime(path, ns=(time.time_ns(), changed))
        return path

    # ------------------------------------------------------------ deleting and checking

    def delete(self, name: str) -> None:
        """Delete a shard; nothing happens if it is not here."""
        with self._lock:
            self._delete(_check(name))

    def is_sound(self, name: str) -> bool:
        """Read a whole shard and compare every chunk; return if all are what they were.

        If not, it counts as begun, without the chunks that are damaged: they are sent again.
        """
        held = self.held(name)
        if held is None or not held.whole:
            return False
        good = list(_pieces(held.chunks))
        with self.path(name).open("rb") as file:
            for index, digest in enumerate(good):
                if hashlib.sha256(file.read(CHUNK_BYTES)).digest() != digest:
                    good[index] = _MISSING
        if _MISSING not in good:
            self._note_unchanged(name)
            return True
        with self._lock:
            self.path(name).replace(self._part(name))
            self._chunks(name).write_bytes(b"".join(good))
        return False

    def _check_if_changed(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            times = {path.stat().st_mtime_ns for path in (self.path(name), self._chunks(name))}
            if len(times) > 1:
                self.is_sound(name)

    def _note_unchanged(self, name: str) -> None:
        changed = self.path(name).stat().st_mtime_ns
        os.utime(self._chunks(name), ns=(changed, changed))

    def _delete(self, name: str) -> None:
        for path in (self.path(name), self._part(name), self._chunks(name)):
            path.unlink(missing_ok=True)

    def _part(self, name: str) -> Path:
        return self._directory / f"{_check(name)}.part"

    def _chunks(self, name: str) -> Path:
        return self._directory / f"{_check(name)}.chunks"


def _check(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(f"{name!r} is no name of a shard")
    return name


def _n_chunks(size_bytes: int) -> int:
    return -(-size_bytes // CHUNK_BYTES)


def _pieces(chunks: bytes) -> Iterator[bytes]:
    return (chunks[at : at + DIGEST_BYTES] for at in range(0, len(chunks), DIGEST_BYTES))


def _write_at(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(descriptor)


def _write_error(error: OSError, directory: Path) -> ResourceError:
    if error.errno in _NO_SPACE:
        return ResourceError(f"the disk of {directory} is full", "`dure cache prune` makes room")
    return ResourceError(f"{directory} cannot be written: {error.strerror}")
