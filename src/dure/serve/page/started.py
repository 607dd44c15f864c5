"""Commands that the page starts: each is a process of its own, which notes its work as in a terminal.

Refuses to know what the commands do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from dure.errors import BusyError, ResourceError, UsageError
from dure.places import work_directory
from dure.work_notes import WorkNote, interrupt, noted_work

__all__ = ["StartedCommands"]

_DURE = (sys.executable, "-m", "dure.cli.main")
_NOTED_WITHIN_S = 60.0  # a slow board imports for a while, and reads a large model's header
_LOOK_EVERY_S = 0.05
_NICENESS = 10  # answers come first
_FIRST_TO_GO = "1000"  # to Linux, if memory runs out: the engine is to stay


class StartedCommands:
    """Runs one command at a time. ended: gets the last note of each."""

    def __init__(self, ended: Callable[[WorkNote], None]) -> None:
        self._ended = ended
        self._running: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self, words: Sequence[str], directory: Path) -> WorkNote:
        """Start `dure` with these words in a directory, and return its work as soon as it is noted.

        Raises BusyError if another one runs, UsageError with its last words if it has ended before, and
        ResourceError if it notes nothing.
        """
        with self._lock:
            if self._running is not None and self._running.poll() is None:
                raise BusyError("other work was started from here", "wait for it, or stop it")
            directory.mkdir(parents=True, exist_ok=True)
            said = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the process has ended
            process = self._running = subprocess.Popen(
                [*_DURE, *words],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # Ctrl-C at the server's terminal is not for it
            )
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(_FIRST_TO_GO)
        try:
            note = _noted(process, said)
        except BaseException:
            process.terminate()
            said.close()
            raise
        threading.Thread(target=self._await_end, args=(process, said), daemon=True).start()
        return note

    def close(self) -> None:
        """Stop the command in good order, as Ctrl-C does; without waiting."""
        running = self._running
        for note in noted_work() if running is not None and running.poll() is None else ():
            if running is not None and note.pid == running.pid:
                interrupt(note)

    def _await_end(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        process.wait()
        said.close()
        if (note := _note_of(process)) is not None:
            self._ended(note)


def _noted(process: subprocess.Popen[bytes], said: IO[bytes]) -> WorkNote:
    give_up = time.monotonic() + _NOTED_WITHIN_S
    while time.monotonic() < give_up:
        has_ended = (
            process.poll() is not None
        )  # before its note is looked for: then that is its last
        if (note := _note_of(process)) is not None:
            return note
        if has_ended:
            raise UsageError(_last_words(said) or f"the command ended with {process.returncode}")
        time.sleep(_LOOK_EVERY_S)
    raise ResourceError(
        f"the work was not noted within {_NOTED_WITHIN_S:g} s",
        f"see whether {work_directory()} can be written",
    )


def _note_of(process: subprocess.Popen[bytes]) -> WorkNote | None:
    return next((note for note in noted_work() if note.pid == process.pid), None)


def _last_words(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("dure: ") if lines else ""
