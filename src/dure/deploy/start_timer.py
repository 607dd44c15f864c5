"""Times the parts of a start, for the cluster's event log."""

from __future__ import annotations

import time

__all__ = ["StartTimer"]


class StartTimer:
    """Adds up the seconds of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def note(self, part: str) -> None:
        """Add the time since the last call to this part."""
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._last, 2)
        self._last = now
