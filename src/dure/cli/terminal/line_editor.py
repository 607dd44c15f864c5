"""Reads the messages of `dure chat`: line editing, history over sessions, pastes of many lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from dure.places import history_file

__all__ = ["line_reader"]

PROMPT = ">>> "


def line_reader() -> Callable[[], str]:
    """Return a function that reads the next message: in an editor on a terminal, else a line of stdin.

    It raises EOFError at the end and KeyboardInterrupt on Ctrl-C. A paste of many lines is one message.
    """
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return input
    from prompt_toolkit import PromptSession  # takes 0.1 s, which other commands need not wait for
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    os.environ.setdefault(
        "PROMPT_TOOLKIT_NO_CPR", "1"
    )  # some terminals do not report where the cursor is
    file = _private(history_file())
    history: History = FileHistory(str(file)) if file else InMemoryHistory()
    session: PromptSession[str] = PromptSession(history=history)
    return lambda: session.prompt(PROMPT)


def _private(file: Path) -> Path | None:
    """Return a file that only its owner can read, created if missing; None if it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        with file.open("ab"):
            return file
    except OSError:
        return None
