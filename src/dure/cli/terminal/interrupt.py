"""Lets Ctrl-C stop an answer, not the program."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

__all__ = ["Interrupt"]


class Interrupt:
    """Notes the first Ctrl-C in its block; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._came = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._came = True

    def came(self) -> bool:
        """Return whether Ctrl-C was pressed since the last `forget`."""
        return self._came

    def forget(self) -> None:
        """Forget a Ctrl-C, before the next answer."""
        self._came = False
