"""The store of prefixes outside of the KV cache: files, in memory or on a disk.

Knows the files of their tokens, which are on this machine; every rank has the files of its own part of
the KV cache. Refuses to know which prefixes are worth storing.
A prefix whose files are damaged, or that a rank does not have, counts as missing: it is computed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO

import numpy as np

from dure.engine.executor import SequenceFiles
from dure.errors import ResourceError
from dure.generate.scheduler import DropPrefix, LoadPrefix, StorePrefix, adapters_of, prefix_key

__all__ = ["PrefixStore"]


class PrefixStore:
    """Saves and loads the sequences of one executor in a directory, which is made if need be.

    Raises ResourceError if it cannot be made.
    """

    def __init__(self, directory: Path, files: SequenceFiles) -> None:
        self._directory, self._files = directory, files
        self._locked: IO[str] | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"the cache directory {directory} cannot be made ({error.strerror})",
                "name another one",
            ) from error

    @classmethod
    def alone(cls, parent: Path, name: str, files: SequenceFiles) -> PrefixStore:
        """Open the directory of this name in `parent` for this process alone.

        If another process uses it, that is `name-2`, and so on: each deletes what it does not know.
        """
        for n in count(1):
            store = cls(parent / (name if n == 1 else f"{name}-{n}"), files)
            if store._lock():
                return store
        raise AssertionError("there are numbers enough")

    def _lock(self) -> bool:
        """Claim the directory until this process ends; False if another has it."""
        try:
            self._locked = self._directory.with_name(f"{self._directory.name}.lock").open("w")
            fcntl.lockf(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # of a disk that has no locks, or is read-only
            return True
        return True

    def scan(self) -> Iterator[tuple[str, list[int]]]:
        """Yield key and tokens of what every rank has, the least recently used first; delete the rest."""
        found = {path.stem: tokens for path in self._oldest_first() if (tokens := _read(path))}
        ranks = self._files.keep_only(str(self._directory), [*found])
        complete = {key: t for key, t in found.items() if all(key in rank.keys for rank in ranks)}
        for path in self._directory.iterdir():
            if (key := path.name.partition(".")[0]) not in complete:
                self._files.drop(str(self._directory / key))
                path.unlink(missing_ok=True)
        yield from complete.items()

    def clear(self) -> None:
        """Delete everything, on every rank."""
        self._files.keep_only(str(self._directory), [])
        shutil.rmtree(self._directory, ignore_errors=True)

    def _oldest_first(self) -> list[Path]:
        return sorted(self._directory.glob("*.tokens"), key=lambda path: path.stat().st_mtime_ns)

    def save(self, action: StorePrefix) -> bool:
        """Write a slot's sequence; False if there is no room, and nothing is left of it then."""
        try:
            self._files.save(action.slot, str(self._directory / action.key))
            part = self._directory / f"{action.key}.part"
            part.write_bytes(np.array(action.tokens, np.int32).tobytes())
            part.replace(self._tokens_file(action.key))
        except (ResourceError, OSError):
            self.drop(DropPrefix(action.key))
            return False
        return True

    def load(self, action: LoadPrefix) -> bool:
        """Read a sequence into an empty slot; False if it is damaged or incomplete."""
        path = self._tokens_file(action.key)
        if not path.is_file() or path.stat().st_size != 4 * action.n_stored:
            return False
        with contextlib.suppress(OSError):  # on a read-only disk it stays the least recently used
            path.touch()
        return self._files.load(action.slot, str(self._directory / action.key), action.n_stored)

    def drop(self, action: DropPrefix) -> None:
        """Delete a sequence."""
        with contextlib.suppress(OSError):  # it is overwritten when it is stored again
            self._tokens_file(action.key).unlink(missing_ok=True)
        self._files.drop(str(self._directory / action.key))

    def free_bytes(self) -> list[int]:
        """Return the bytes that each rank can use for the store, with those in use already."""
        keys = [path.stem for path in self._directory.glob("*.tokens")]
        return [rank.free_bytes for rank in self._files.keep_only(str(self._directory), keys)]

    def _tokens_file(self, key: str) -> Path:
        return self._directory / f"{key}.tokens"


def _read(path: Path) -> list[int]:
    """Return the tokens in a file; none if its name is not their key."""
    try:
        data, adapters = path.read_bytes(), adapters_of(path.stem)
    except (OSError, ValueError, struct.error):
        return []
    if len(data) % 4:
        return []
    tokens: list[int] = np.frombuffer(data, np.int32).tolist()
    return tokens if prefix_key(tokens, adapters) == path.stem else []
