"""Cached prefixes outside of the KV cache: files, in memory or on a disk.

Knows the files of their tokens, which lie on this machine; every rank keeps its own part on its own.
A prefix whose files are damaged, or that a rank does not have, counts as missing: it is computed again.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dure.engine.executor import SequenceFiles
from dure.errors import ResourceError
from dure.generate.scheduler.scheduler import Drop, Load, Store, key_of

__all__ = ["PrefixStore"]


class PrefixStore:
    """Saves and restores sequences of one executor below a directory, which is made if need be."""

    def __init__(self, directory: Path, files: SequenceFiles) -> None:
        self._directory, self._files = directory, files
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"the cache directory {directory} cannot be made ({error.strerror}): name another one"
            ) from error

    def scan(self) -> Iterator[tuple[str, list[int]]]:
        """What every rank has, oldest first: key and tokens. Deletes what is damaged or incomplete."""
        told = {path.stem: tokens for path in self._oldest_first() if (tokens := _read(path))}
        ranks = self._files.keep_only(str(self._directory), [*told])
        whole = {key: t for key, t in told.items() if all(key in rank.keys for rank in ranks)}
        for path in self._directory.iterdir():
            if (key := path.name.partition(".")[0]) not in whole:
                self._files.drop(str(self._directory / key))
                path.unlink(missing_ok=True)
        yield from whole.items()

    def clear(self) -> None:
        """Delete everything, on every rank."""
        self._files.keep_only(str(self._directory), [])
        shutil.rmtree(self._directory, ignore_errors=True)

    def _oldest_first(self) -> list[Path]:
        return sorted(self._directory.glob("*.tokens"), key=lambda path: path.stat().st_mtime_ns)

    def save(self, store: Store) -> bool:
        """Write a sequence. False where there is no room; nothing is left of it then."""
        try:
            self._files.save(store.slot, str(self._directory / store.key))
            part = self._directory / f"{store.key}.part"
            part.write_bytes(np.array(store.tokens, np.int32).tobytes())
            part.replace(self._tokens_of(store.key))
        except (ResourceError, OSError):
            self.drop(Drop(store.key))
            return False
        return True

    def load(self, load: Load) -> bool:
        """Read a sequence into an empty slot; False where it is not whole."""
        path = self._tokens_of(load.key)
        if not path.is_file() or path.stat().st_size != 4 * load.n_stored:
            return False
        with contextlib.suppress(OSError):  # on a disk that is read-only it does not get younger
            path.touch()
        return self._files.load(load.slot, str(self._directory / load.key), load.n_stored)

    def drop(self, drop: Drop) -> None:
        """Delete a sequence."""
        with contextlib.suppress(OSError):  # it is written over when it is stored again
            self._tokens_of(drop.key).unlink(missing_ok=True)
        self._files.drop(str(self._directory / drop.key))

    def free_bytes(self) -> list[int]:
        """How much room each rank has for the store, with what it holds already."""
        keys = [path.stem for path in self._directory.glob("*.tokens")]
        return [rank.free_bytes for rank in self._files.keep_only(str(self._directory), keys)]

    def _tokens_of(self, key: str) -> Path:
        return self._directory / f"{key}.tokens"


def _read(path: Path) -> list[int]:
    """The tokens in a file; none where they are not those that its name is the hash of."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    if len(data) % 4:
        return []
    tokens: list[int] = np.frombuffer(data, np.int32).tolist()
    return tokens if key_of(tokens) == path.stem else []
