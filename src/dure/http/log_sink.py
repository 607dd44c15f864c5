"""Writes lines to a file or to stderr from a thread of its own, so that a full pipe stops no request.

Knows that a disk fills up, a pipe is read by nobody, and a file is moved away by log rotation.
Refuses to know what lines say.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType

from dure.errors import UsageError

__all__ = ["LogSink"]

_MOST_WAITING = 10_000  # lines; more are dropped and counted
_MOST_AT_ONCE = 256
_CLOSE_S = 2.0
_STDERR = 2


class LogSink:
    """Takes lines at once, and writes them in order. Use it as a context: its end writes the rest.

    path None is stderr. lost: n lines that found no room; the next line that does reports them.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Raises UsageError if the file cannot be written."""
        self._path = path
        # Unbuffered: a thread that waits for a full pipe must hold no lock that the exit wants.
        self._file = _open(path) if path else FileIO(_STDERR, "w", closefd=False)
        self._waiting: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self.lost = 0
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)

    def write(self, line: str) -> None:
        """Queue a line; never waits."""
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self.lost += 1

    def __enter__(self) -> LogSink:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Write the rest, for 2 s at most: a pipe that nobody reads must not delay the end."""
        try:
            self._waiting.put(None, timeout=_CLOSE_S)
        except queue.Full:
            return
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._file.close()

    def _work(self) -> None:
        ended = False
        while not ended:
            lines = [self._waiting.get()]
            while len(lines) < _MOST_AT_ONCE and not self._waiting.empty():
                lines.append(self._waiting.get())
            ended = lines[-1] is None
            self._emit([line for line in lines if line is not None])

    def _emit(self, lines: list[str]) -> None:
        lost, self.lost = self.lost, 0
        report = [f"{lost} lines of this log were lost: nothing took them in time"] * (lost > 0)
        try:
            self._follow_rotation()
            _write_all(self._file, "".join(f"{line}\n" for line in [*report, *lines]))
        except OSError:  # a full disk, a closed pipe: go on serving
            self.lost += lost + len(lines)

    def _follow_rotation(self) -> None:
        """Open the file again if it has been moved away."""
        if self._path is not None and _moved(self._path, self._file):
            with suppress(UsageError):  # then the old one goes on
                new = _open(self._path)
                self._file.close()
                self._file = new


def _open(path: Path) -> FileIO:
    try:
        return FileIO(path, "a")
    except OSError as error:
        raise UsageError(f"{path}: cannot write the log: {error.strerror}") from None


def _write_all(file: FileIO, text: str) -> None:
    data = memoryview(text.encode())
    while data:
        data = data[file.write(data) or 0 :]


def _moved(path: Path, file: FileIO) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True
