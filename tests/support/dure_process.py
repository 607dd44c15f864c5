"""Runs `dure` as a user does: in its own process, through a pipe or on a terminal.

Knows how to start the command line, how to type at it, and how to find every process that a run
started. Knows nothing about models.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

DURE = (sys.executable, "-m", "dure.cli.main")
MARKER = "DURE_TEST_MARKER"
WAIT_S = 120.0  # detects a hang; nothing is measured with it

# Makes its standard input the controlling terminal, as a login does, then runs dure.
_ON_TERMINAL = """
import os, signal, sys
os.login_tty(0)
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored, where the tests run in the background
os.execv(sys.argv[1], sys.argv[1:])
"""

# Runs dure as a process that Ctrl-C reaches.
IN_FRONT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored, where the tests run in the background
os.execv(sys.argv[1], sys.argv[1:])
"""


class Dure:
    """Starts `dure` with its shards in `cache`; all processes it starts carry this object's mark."""

    def __init__(self, cache: Path) -> None:
        self.mark = uuid.uuid4().hex
        unwanted = ("DURE_", "NO_COLOR", "FORCE_COLOR", "TTY_", "PYTHONUNBUFFERED")
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(unwanted)},
            "DURE_CACHE": str(cache),
            "DURE_WORK": str(cache / "work"),
            "COLUMNS": "250",  # so that tables and warnings have one line each
            "TERM": "xterm-256color",
            MARKER: self.mark,
        }

    def __call__(
        self, *arguments: object, stdin: str | bytes = b"", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with additional variables in `environment`."""
        done = subprocess.run(
            [*DURE, *map(str, arguments)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=WAIT_S,
            env={**self.environment, **environment},
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def start(self, *arguments: object, **streams: Any) -> subprocess.Popen[bytes]:
        """Start a command and leave it running; `streams` are Popen's, stdin is empty by default."""
        streams = {"stdin": subprocess.DEVNULL, **streams}
        return subprocess.Popen(
            [sys.executable, "-c", IN_FRONT, *DURE, *map(str, arguments)],
            env=self.environment,
            bufsize=0,
            **streams,
        )

    @contextmanager
    def terminal(self, *arguments: object, **environment: str) -> Iterator[Terminal]:
        """Run a command on its own terminal; kill it if it outlives the block."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *DURE, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**self.environment, **environment},
        )
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(WAIT_S)
            os.close(ours)

    def living(self) -> list[str]:
        """Return the command lines of all living processes started through this object."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and (
                    process.environ().get(MARKER) == self.mark
                ):
                    found.append(" ".join(process.cmdline()))
        return found

    def left_behind(self) -> list[str]:
        """Return `living`, after giving processes that are ending time to do so."""
        give_up = time.monotonic() + 20
        while (found := self.living()) and time.monotonic() < give_up:
            time.sleep(0.05)
        return found


class Terminal:
    """The user's end of a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process, self._descriptor = process, descriptor

    def type(self, text: str) -> None:
        """Press these keys; \\x03 is Ctrl-C and \\x04 Ctrl-D."""
        os.write(self._descriptor, text.encode())

    def await_reading(self) -> None:
        """Wait until the program sleeps, as it does only if it waits for keys.

        A signal between the prompt and the wait is not handled before the next key.
        """
        process = psutil.Process(self.process.pid)
        while process.status() != psutil.STATUS_SLEEPING:
            time.sleep(0.01)

    def read_until(self, *endings: str) -> str:
        """Return the output until all of `endings` have appeared, one after the other."""
        shown, start = "", 0
        for ending in endings:
            while (found := shown.find(ending, start)) < 0:
                more = self._read()
                assert more, f"{ending!r} never came after {shown!r}"
                shown += more
            start = found + len(ending)
        return shown

    def read_all(self) -> str:
        """Return the output until the program ends."""
        shown = ""
        while more := self._read():
            shown += more
        return shown

    def _read(self) -> str:
        ready, _, _ = select.select([self._descriptor], [], [], WAIT_S)
        assert ready, "nothing appears on the terminal any more"
        try:
            return os.read(self._descriptor, 65536).decode(errors="replace")
        except OSError:  # on Linux, when the last process has left the terminal
            return ""


def error_line(stderr: str) -> str:
    """Return the one line of an error; the warning about few cores is no error."""
    lines = [
        line
        for line in stderr.splitlines()
        if line and "cores of this machine" not in line and "AMX" not in line
    ]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("dure: "), stderr
    return lines[0]


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the data that a run with --json printed; the run must have succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
