"""The prompt of `dure chat` on a terminal: editing, history over sessions, and pastes of many lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from dure.places import history_file

__all__ = ["line_reader"]

PROMPT = ">>> "


def line_reader() -> Callable[[], str]:
    """Return what reads the user's next text: an editor on a terminal, else a line of stdin.

    The function raises EOFError at the end, and KeyboardInterrupt for Ctrl-C. A paste of many lines is
    one text.
    """
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return input
    from prompt_toolkit import PromptSession  # 0.1 s, which other commands need not wait for
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    os.environ.setdefault(
        "PROMPT_TOOLKIT_NO_CPR", "1"
    )  # not every terminal tells where its cursor is
    kept = _private(history_file())
    history: History = FileHistory(str(kept)) if kept else InMemoryHistory()
    session: PromptSession[str] = PromptSession(history=history)
    return lambda: session.prompt(PROMPT)


def _private(file: Path) -> Path | None:
    """Return a file that only its owner can read, made if missing; None if it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        with file.open("ab"):
            return file
    except OSError:
        return None
