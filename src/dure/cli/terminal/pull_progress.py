"""Shows a pull: a bar on a terminal, lines elsewhere, and how to resume it after Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.progress import Progress, TaskID

from dure.cli.terminal.console import byte_columns, errors, printable
from dure.cli.terminal.noted import begin_phase, noted, tell
from dure.model.store import Watcher
from dure.model.store.names import without_secrets
from dure.sizes import bytes_text

__all__ = ["noted_pull", "pull_progress", "saying_how_to_resume"]

LINE_EVERY_S = 10.0


@contextmanager
def saying_how_to_resume(name: str) -> Iterator[None]:
    """Print how to resume the pull if Ctrl-C stops the block."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"\nstopped: `dure pull {name}` resumes from here", markup=False)
        raise typer.Exit(130) from None


@contextmanager
def pull_progress() -> Iterator[Watcher]:
    """Show a pull on stderr: a bar on a terminal, occasional lines elsewhere."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(_Bar()) if errors.is_terminal else _Lines()


@contextmanager
def noted_pull(name: str) -> Iterator[Watcher]:
    """Show a pull as `pull_progress` does, and note it as work."""
    with noted("pull", without_secrets(name)), pull_progress() as shown:
        yield _Noting(shown)


class _Noting:
    """Passes all on, and notes it."""

    def __init__(self, watch: Watcher) -> None:
        self._watch, self._done = watch, 0
        self._note: Callable[[float], None] = lambda _: None

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Begin to note a file."""
        self._watch.file(name, size_bytes, done_bytes)
        self._done = done_bytes
        self._note = begin_phase("", size_bytes, "bytes", done_bytes)

    def advance(self, n_bytes: int) -> None:
        """Note how much is here."""
        self._watch.advance(n_bytes)
        self._done += n_bytes
        self._note(self._done)

    def note(self, text: str) -> None:
        """Note it too."""
        self._watch.note(text)
        tell(text)


class _Bar:
    """A bar for the current file."""

    def __init__(self) -> None:
        self._progress = Progress(*byte_columns(), console=errors, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Begin the bar of a file."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(
            printable(name), total=size_bytes, completed=done_bytes
        )

    def advance(self, n_bytes: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, n_bytes)

    def note(self, text: str) -> None:
        """Write above the bar."""
        errors.print(printable(text), markup=False, soft_wrap=True)


class _Lines:
    """A line per file, and one every ten seconds."""

    def __init__(self) -> None:
        self._name, self._size, self._done = "", 0, 0
        self._written_at = time.monotonic()

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Print the file that begins."""
        self._name, self._size, self._done = name, size_bytes or 0, done_bytes
        size = bytes_text(size_bytes) if size_bytes is not None else "size unknown"
        begun = f", {bytes_text(done_bytes)} are here" if done_bytes else ""
        self.note(f"pulling {name} ({size}{begun})")

    def advance(self, n_bytes: int) -> None:
        """Print the progress every ten seconds."""
        self._done += n_bytes
        if time.monotonic() - self._written_at >= LINE_EVERY_S:
            of = f" of {bytes_text(self._size)}" if self._size else ""
            self.note(f"{self._name}: {bytes_text(self._done)}{of}")

    def note(self, text: str) -> None:
        """Write a line."""
        self._written_at = time.monotonic()
        errors.print(printable(text), markup=False, soft_wrap=True)
