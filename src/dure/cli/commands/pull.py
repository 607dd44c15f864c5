"""`dure pull`: bring a model to this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dure.cli.terminal.completion import pullable
from dure.cli.terminal.console import bytes_text, errors, output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.errors import UsageError
from dure.model.store import Library, StoredModel, UrlName, Watcher, parse_name

if TYPE_CHECKING:
    from dure.model.store.pull import Pulled

__all__ = ["pull", "stored_facts", "watching"]

LINE_EVERY_S = 10.0


def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="A short name (qwen3:4b), hf:owner/repository[:quantization or file], or an address.",
            autocompletion=pullable,
            show_default=False,
        ),
    ],
    sha256: Annotated[
        str | None, typer.Option(help="What the file at an address must have as its SHA-256.")
    ] = None,
    tries: Annotated[
        int, typer.Option(help="Tries in a row without a new byte before giving up.")
    ] = 6,
    timeout: Annotated[
        float, typer.Option(help="Seconds without a byte after which a line is taken for lost.")
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Bring a model to this machine; what was begun is gone on with.

    Example: dure pull qwen3:0.6b
    """
    from dure.model.store.download import Patience
    from dure.model.store.pull import pull as bring

    if tries < 1:
        raise UsageError(f"--tries {tries}: give a number above 0")
    if not 0 < timeout < float("inf"):
        raise UsageError(f"--timeout {timeout}: give a number of seconds above 0, as in 30")
    meant = parse_name(name)
    if sha256 is not None and not isinstance(meant, UrlName):
        raise UsageError("--sha256 is for addresses: the hub states checksums of its own")
    with told_when_stopped(name), watching() as watch:
        patience = Patience(tries=tries, timeout_s=timeout)
        pulled = bring(meant, Library(), watch, patience, sha256 and sha256.lower())
    if as_json:
        print_json({**stored_facts(pulled.model), "fresh": pulled.fresh})
    else:
        _print(pulled)


def _print(pulled: Pulled) -> None:
    model = pulled.model
    state = "" if pulled.fresh else " was here already, and is up to date"
    output.print(f"{printable(model.name)}{state}: {bytes_text(model.size_bytes)}", soft_wrap=True)
    output.print(printable(str(model.path)), soft_wrap=True)
    if pulled.reused_bytes:
        errors.print(f"{bytes_text(pulled.reused_bytes)} are shared with the Hugging Face cache")


def stored_facts(model: StoredModel) -> dict[str, Any]:
    """A stored model as plain data."""
    record = model.record
    return {
        "name": model.name,
        "short_name": model.short_name,
        "path": str(model.path),
        "files": [str(path) for path in model.paths],
        "size_bytes": model.size_bytes,
        "source": record.source if record else None,
        "revision": record.revision if record else None,
        "sha256": [file.sha256 for file in record.files] if record else None,
        "pulled_at": record.pulled_at if record else None,
        "unfinished": model.unfinished,
    }


@contextmanager
def told_when_stopped(name: str) -> Iterator[None]:
    """Ctrl-C ends a pull with a word on how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"\nstopped: `dure pull {name}` goes on from here", markup=False)
        raise typer.Exit(130) from None


@contextmanager
def watching() -> Iterator[Watcher]:
    """Shows a pull on stderr: a bar on a terminal, a line now and then elsewhere."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(_Bar()) if errors.is_terminal else _Lines()


class _Bar:
    """One bar for the current file."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=errors, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Begin a new bar."""
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
    """A line when a file begins, and one every ten seconds."""

    def __init__(self) -> None:
        self._name, self._size, self._done = "", 0, 0
        self._told = time.monotonic()

    def file(self, name: str, size_bytes: int | None, done_bytes: int) -> None:
        """Say what begins."""
        self._name, self._size, self._done = name, size_bytes or 0, done_bytes
        size = bytes_text(size_bytes) if size_bytes is not None else "size unknown"
        begun = f", {bytes_text(done_bytes)} are here" if done_bytes else ""
        self.note(f"pulling {name} ({size}{begun})")

    def advance(self, n_bytes: int) -> None:
        """Say how far it is, now and then."""
        self._done += n_bytes
        if time.monotonic() - self._told >= LINE_EVERY_S:
            of = f" of {bytes_text(self._size)}" if self._size else ""
            self.note(f"{self._name}: {bytes_text(self._done)}{of}")

    def note(self, text: str) -> None:
        """Write a line."""
        self._told = time.monotonic()
        errors.print(printable(text), markup=False, soft_wrap=True)
