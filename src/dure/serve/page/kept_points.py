"""The points of a server's last day in a file, so that the next server at its address has them.

Knows the file's name and format. Refuses to stop a server: a file that cannot be read counts as empty, one
that cannot be written is a line of the log.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

import msgspec

from dure.serve.page.history import DAY_S, Point
from dure.whole_file import write_whole

__all__ = ["KeptPoints"]

log = logging.getLogger(__name__)

_FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{16}\.json")
_LARGEST_BYTES = 64 << 20  # a day of a hundred machines is a fifth of it


class _File(msgspec.Struct):
    format: int
    model: str
    address: str
    points: list[Point]


class KeptPoints:
    """The file of the server of one model at one address. directory: of all such files."""

    def __init__(self, directory: Path, model: str, address: str) -> None:
        self._model, self._address = model, address
        name = hashlib.sha256(f"{model}\n{address}".encode()).hexdigest()[:16]
        self._directory, self._path = directory, directory / f"{name}.json"
        self._problem = ""
        self._writing = Lock()

    def read(self) -> list[Point]:
        """Return the points of the last day, oldest first; none if the file is missing or damaged."""
        try:
            if self._path.stat().st_size > _LARGEST_BYTES:
                return []
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError, RecursionError):
            return []
        if (found.format, found.model, found.address) != (_FORMAT, self._model, self._address):
            return []
        now = time.time()
        recent = [one for one in found.points if now - DAY_S <= one.at <= now]
        return sorted(recent, key=lambda one: one.at)

    def write(self, points: Sequence[Point]) -> None:
        """Write the points, and delete the files of servers that have been gone for a day."""
        if points:
            with self._writing:  # the last time may come while another is under way
                self._write(points)

    def _write(self, points: Sequence[Point]) -> None:
        kept = _File(_FORMAT, self._model, self._address, list(points))
        try:
            write_whole(self._path, msgspec.json.encode(kept), private=True)
        except OSError as error:
            self._log(f"{self._path}: the page's last day is not kept: {error.strerror}")
            return
        self._problem = ""
        with suppress(OSError):
            self._delete_old()

    def _delete_old(self) -> None:
        for path in self._directory.iterdir():
            is_ours = _NAME.fullmatch(path.name) is not None
            if is_ours and path.stat().st_mtime < time.time() - DAY_S:
                path.unlink(missing_ok=True)

    def _log(self, problem: str) -> None:
        if problem != self._problem:  # once, not every few minutes
            log.warning("%s", problem)
        self._problem = problem
