"""One rank's part of saved sequences, as files on its own machine.

A sequence that the client calls PATH is `PATH.rankR` for rank R. On another machine than the client's
there is no such directory: the last two names of PATH lie below one that this machine chose, `elsewhere`.
Knows names and directories; refuses to know what a file holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from dure.errors import UsageError

__all__ = ["RankFiles"]

MOST_DIRECTORIES = 3  # elsewhere: of the cuts that ran last
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RankFiles:
    """One rank's files of saved sequences.

    elsewhere: the directory that its machine chose for them; "" if they lie where the client says.
    """

    def __init__(self, rank: int, elsewhere: str = "") -> None:
        self._suffix, self._elsewhere = f".rank{rank}", elsewhere

    def file(self, path: str) -> Path:
        """Return this rank's file of a sequence. Raises UsageError if `path` does not end in a name."""
        return self._here(Path(path).parent) / f"{_checked(Path(path).name)}{self._suffix}"

    def keep_only(self, directory: str, keys: Sequence[str]) -> tuple[list[str], int]:
        """Delete all sequences in a directory but these; return which of them are here, and bytes of room.

        The room counts what these take. A directory that cannot be made has none.
        """
        here, wanted = self._here(Path(directory)), set(keys)
        try:
            here.mkdir(parents=True, exist_ok=True)
            if self._elsewhere:
                os.utime(here)
                self._delete_old_directories()
            held = self._delete_others(here, wanted)
            return [*held], shutil.disk_usage(here).free + sum(held.values())
        except OSError:
            return [], 0

    def _delete_others(self, here: Path, wanted: set[str]) -> dict[str, int]:
        """Delete what is not wanted, and half-written files; return the bytes of the rest by key."""
        held: dict[str, int] = {}
        for path in here.glob(f"*{self._suffix}*"):
            key, _, rest = path.name.partition(self._suffix)
            if key in wanted and not rest:
                held[key] = path.stat().st_size
            elif not rest or rest == ".part":
                path.unlink(missing_ok=True)
        return held

    def drop(self, path: str) -> None:
        """Delete this rank's file of a sequence; one that cannot be deleted is written over later."""
        with contextlib.suppress(OSError):
            self.file(path).unlink(missing_ok=True)

    def _here(self, directory: Path) -> Path:
        return Path(self._elsewhere) / _checked(directory.name) if self._elsewhere else directory

    def _delete_old_directories(self) -> None:
        directories = [path for path in Path(self._elsewhere).iterdir() if path.is_dir()]
        directories.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in directories[MOST_DIRECTORIES:]:
            shutil.rmtree(path, ignore_errors=True)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a saved sequence")
    return name
