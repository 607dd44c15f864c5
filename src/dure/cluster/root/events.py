"""The cluster's event log: what happened, when, to which node. One line of JSON each, in the past tense.

Knows one file. Refuses to know what events mean.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dure.whole_file import write_whole

__all__ = ["EventLog"]

MOST_BYTES = 8 << 20  # then the older half is cut off


class EventLog:
    """Write and read the events in a file, oldest first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, event: str, **facts: Any) -> None:
        """Write an event. Raises OSError."""
        line = json.dumps({"time": time.time(), "event": event, **facts}) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
            size = file.tell()
        if size > MOST_BYTES:
            self._shorten()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield all events; a line that a full disk cut off is passed over."""
        yield from self.read_from(0)[0]

    def read_from(self, offset: int) -> tuple[list[dict[str, Any]], int]:
        """Return the events from a place in the file on, and where the next ones will be.

        offset: as was returned before, 0 for all; one beyond the end is of a file that was cut off since.
        """
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(offset if offset <= size else 0)
                data = file.read()
                end = file.tell()
        except FileNotFoundError:
            return [], 0
        whole, _, rest = data.rpartition(b"\n")
        found = []
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                found.append(event)
        return found, end - len(rest)

    def _shorten(self) -> None:
        lines = self._path.read_bytes().splitlines(keepends=True)
        write_whole(self._path, b"".join(lines[len(lines) // 2 :]))
