"""Cached prefixes outside of the KV cache: files, in memory or on a disk.

Knows file names. Every rank writes its own part beside the others'; the tokens lie next to them.
A prefix whose files are damaged or incomplete counts as missing: it is computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dure.engine.executor import Executor
from dure.errors import ResourceError
from dure.generate.scheduler import Drop, Load, Store

__all__ = ["PrefixStore"]


class PrefixStore:
    """Saves and restores sequences of one executor below a directory, which is made if need be."""

    def __init__(self, directory: Path, executor: Executor) -> None:
        self._directory, self._executor = directory, executor
        directory.mkdir(parents=True, exist_ok=True)

    def scan(self) -> Iterator[tuple[str, list[int]]]:
        """What is stored, oldest first: key and tokens."""
        found = sorted(self._directory.glob("*.tokens"), key=lambda path: path.stat().st_mtime_ns)
        for path in found:
            yield path.stem, np.frombuffer(path.read_bytes(), np.int32).tolist()

    def save(self, store: Store) -> bool:
        """Write a sequence. False where there is no room; nothing is left of it then."""
        try:
            self._executor.save(store.slot, str(self._directory / store.key))
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
        path.touch()
        return self._executor.load(load.slot, str(self._directory / load.key), load.n_stored)

    def drop(self, drop: Drop) -> None:
        """Delete a sequence."""
        for path in self._directory.glob(f"{drop.key}.*"):
            path.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """How much room there is where the store lies."""
        return shutil.disk_usage(self._directory).free

    def _tokens_of(self, key: str) -> Path:
        return self._directory / f"{key}.tokens"
