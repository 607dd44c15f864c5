"""Ctrl-C while an answer is written: stop the answer, not the program."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

__all__ = ["Interrupt"]


class Interrupt:
    """In its block, the first Ctrl-C is only noted; a second one raises KeyboardInterrupt."""

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
        """Whether Ctrl-C was pressed since the last `forget`."""
        return self._came

    def forget(self) -> None:
        """Be ready for the next answer."""
        self._came = False
