"""Writes data to stdout, and everything else to stderr.

On a terminal, tables and warnings fit its width; elsewhere a row is one line, however long.
Names and texts from files are shown literally: no markup, no emoji codes, no control characters.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dure.cli.terminal.noted import noted_phase

if TYPE_CHECKING:
    from dure.work_notes import WorkPhase

__all__ = [
    "byte_columns",
    "duration_text",
    "errors",
    "loading_bar",
    "output",
    "print_error",
    "print_json",
    "print_warning",
    "printable",
    "printable_lines",
    "progress_bar",
    "write",
]

UNWRAPPED = 10_000  # columns


def _console(*, stderr: bool, markup: bool) -> Console:
    console = Console(stderr=stderr, markup=markup, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = UNWRAPPED  # the reader of a file or a pipe may wrap it
    return console


errors = _console(stderr=True, markup=True)
output = _console(stderr=False, markup=False)


_written = ["\n"]  # what stdout got last


def write(text: str) -> None:
    """Write generated text to stdout as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()
    if text:
        _written[:] = [text]


def print_warning(text: str) -> None:
    """Write a warning to stderr, on a line of its own even amid generated text on a terminal."""
    if errors.is_terminal and sys.stdout.isatty() and not _written[0].endswith("\n"):
        write("\n")
    errors.print(text, style="yellow", markup=False)


def printable_lines(text: str) -> str:
    """Return the text fit for a terminal: control characters are escaped, except line ends."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """Return the text on one line, fit for a terminal: control characters are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def print_error(error: Exception) -> None:
    """Write an error to stderr, on one line."""
    text = f"dure: {printable(str(error))}"
    errors.print(text, style="red", markup=False, soft_wrap=True)


def print_json(data: Any, *, in_a_line: bool = False) -> None:
    """Write data to stdout as JSON. in_a_line: for a command that goes on, and may write more."""
    indent = None if in_a_line else 2
    sys.stdout.write(json.dumps(data, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def duration_text(seconds: float) -> str:
    """Write a length of time in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def byte_columns() -> tuple[ProgressColumn, ...]:
    """Return the columns of a bar of bytes: what, how much, how fast, how long still."""
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )


@contextmanager
def progress_bar(title: str, total: int, phase: WorkPhase = "") -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes on stderr, on a terminal only. Yields a function that adds bytes.

    phase: which one of the current work this is, if that is noted.
    """
    off = not errors.is_terminal
    with (
        noted_phase(phase, total, "bytes") as note,
        Progress(*byte_columns(), console=errors, transient=True, disable=off) as bar,
    ):
        task = bar.add_task(title, total=total)

        def advance(more: int) -> None:
            bar.advance(task, more)
            note(bar.tasks[0].completed)

        yield advance


@contextmanager
def loading_bar(title: str, phase: WorkPhase = "") -> Iterator[Callable[[float], None]]:
    """Show a bar from 0 to 1 on stderr, on a terminal only. Yields a function that sets it.

    phase: as `progress_bar` has it.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
    )
    off = not errors.is_terminal
    with (
        noted_phase(phase, 1.0) as note,
        Progress(*columns, console=errors, transient=True, disable=off) as bar,
    ):
        task = bar.add_task(title, total=1.0)

        def show(fraction: float) -> None:
            bar.update(task, completed=fraction)
            note(fraction)

        yield show
