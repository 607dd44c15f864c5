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
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event

    def _shorten(self) -> None:
        lines = self._path.read_bytes().splitlines(keepends=True)
        write_whole(self._path, b"".join(lines[len(lines) // 2 :]))
