"""The line to a pod: questions to its part of dure, files in both directions, and the events of a run.

Over the system's ssh and rsync, by the pod's entry. A file that travels has its name only when it is whole;
what is there with the same content is not sent again, and what was begun goes on. Refuses to know runs.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dure.cluster.add.ssh import BROKEN
from dure.errors import ErrorRecord, ResourceError, revived
from dure.places import temporary_directory
from dure.pods.ledger import Entry
from dure.pods.provider import PodError
from dure.pods.ssh_access import HOSTS, SshAccess
from dure.tune.pod.inside import REFUSED
from dure.tune.pod.job import WorkFolder

__all__ = ["LostLineError", "PodLine", "PodStream"]

_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",  # so a line that is gone is noticed in 15 s
    "ControlPath=none",
    "LogLevel=ERROR",
)
_BEAT_S = 15.0
_TICK_S = 0.2
_TOLD = re.compile(rb"^\s*([\d,]+)\s+\d+%")
_PARTIAL = ".dure-partial"


class LostLineError(PodError):
    """Nothing is heard of the pod: its line is lost, or the pod is."""


class PodLine:
    """A pod, and the folder of a run in it. python: the program there that has this dure."""

    def __init__(self, ssh: SshAccess, entry: Entry, python: str, root: str) -> None:
        self.entry = entry
        self.folder = WorkFolder(Path(root))
        self._ssh, self._python = ssh, python
        self._copying: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------ questions

    def ask(self, word: str, *more: object, given: bytes = b"") -> Any:
        """Ask the pod's dure, and return its answer.

        Raises LostLineError, the error that it answers, or PodError if it answers nothing that makes sense.
        """
        done = subprocess.run(
            self._command([self._inside(word, *more)]),
            input=given,
            capture_output=True,
            check=False,
            env=self._ssh.environment(),
            start_new_session=True,
        )
        if done.returncode == BROKEN:
            raise LostLineError(f"{self.entry.name} is not reached: {_last(done.stderr)}")
        try:
            said = json.loads(done.stdout.decode().splitlines()[-1])
        except (ValueError, IndexError):
            raise PodError(
                f"{self.entry.name} answers {word} with status {done.returncode}: {_last(done.stderr)}",
                f"look at {self.folder.log} there: `dure pod ssh {self.entry.name}`",
            ) from None
        if done.returncode == REFUSED:
            raise revived(ErrorRecord(**said["error"]))
        return said

    def run(self, script: str, on_line: Callable[[str], None], given: Path | None = None) -> int:
        """Run a script there that may take long; return its status. given: its input."""
        with open(given or os.devnull, "rb") as source:  # noqa: PTH123 - a device is no path of ours
            process = subprocess.Popen(
                self._command([f"exec sh -c {shlex.quote(script)}"]),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._ssh.environment(),
            )
            assert process.stdout is not None, "it is a pipe"
            for line in process.stdout:
                on_line(line.decode(errors="replace").rstrip())
            return process.wait()

    # ------------------------------------------------------------ files

    def send(self, files: Mapping[str, Path], advance: Callable[[int], None]) -> None:
        """Copy files into the run's folder. advance: gets bytes as they are done. Raises PodError."""
        with tempfile.TemporaryDirectory(prefix="dure-", dir=temporary_directory()) as folder:
            for place, path in files.items():
                link = Path(folder) / place
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.absolute())
            self._rsync([f"{folder}/", self._there("")], advance, ("--copy-links", "--checksum"))

    def fetch(self, place: str, target: Path, options: Sequence[str] = ()) -> None:
        """Copy what lies in a place of the run's folder to a folder here. Raises PodError."""
        target.mkdir(parents=True, exist_ok=True)
        self._rsync([self._there(place), f"{target}/"], lambda _n: None, options)

    def give_up_copying(self) -> None:
        """End what is being copied, from another thread: it goes on from there the next time."""
        if (process := self._copying) is not None:
            process.terminate()

    def _rsync(
        self, sides: Sequence[str], advance: Callable[[int], None], options: Sequence[str]
    ) -> None:
        shell = shlex.join(["ssh", "-F", str(self._ssh.config), *_words()])
        kept = ["--recursive", "--times", f"--partial-dir={_PARTIAL}"]
        shown = ["--info=progress2", "--no-inc-recursive", "--outbuf=N"]
        command = ["rsync", *kept, *shown, *options, "-e", shell, "--", *sides]
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=self._ssh.environment(),
                    start_new_session=True,  # a Ctrl-C is handled here
                )
            except FileNotFoundError as error:
                raise ResourceError(
                    "rsync is not here", "install it with `sudo apt install rsync`"
                ) from error
            self._copying = process
            try:
                _watch(process, advance)
            except BaseException:
                process.terminate()
                process.wait()
                raise
            finally:
                self._copying = None
            if process.wait():
                said.seek(0)
                raise LostLineError(
                    f"copying with {self.entry.name} ended: {_last(said.read())}",
                    "give the same command again: it goes on where it was",
                )

    def _there(self, place: str) -> str:
        return f"{HOSTS}{self.entry.name}:{self.folder.root}/{place}"

    # ------------------------------------------------------------ events

    def follow(self, attempt: str, line: int) -> PodStream:
        """Return the events of a start, from a line on."""
        command = self._command([self._inside("follow", attempt, line)])
        return PodStream(command, self._ssh.environment())

    def _inside(self, word: str, *more: object) -> str:
        words = [self._python, "-P", "-m", "dure.tune.pod.inside", word, str(self.folder.root)]
        return shlex.join([*words, *map(str, more)])

    def _command(self, words: Sequence[str]) -> list[str]:
        return self._ssh.command(self.entry, words, _words())


class PodStream:
    """The events of a run as they come. Heartbeats go the other way. Close it."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            start_new_session=True,  # a Ctrl-C ends the looking, and not in the midst of a line
        )
        self._begun = b""
        self._beats_at = time.monotonic() + _BEAT_S

    def events(self) -> Iterator[dict[str, Any] | None]:
        """Yield events, and None now and then, until the line ends."""
        assert self._process.stdout is not None, "it is a pipe"
        while True:
            self._beat()
            ready, _, _ = select.select([self._process.stdout], [], [], _TICK_S)
            if not ready:
                yield None
                continue
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                return
            *lines, self._begun = (self._begun + data).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):  # and not what a login shell has to say
                    yield json.loads(line)

    def _beat(self) -> None:
        if time.monotonic() < self._beats_at or self._process.stdin is None:
            return
        self._beats_at = time.monotonic() + _BEAT_S
        with suppress(OSError):  # its end is read soon
            self._process.stdin.write(b"\n")

    @property
    def has_crashed(self) -> bool:
        """Whether the program in the pod has ended by itself, and not the line to it."""
        return (self._process.returncode or 0) in range(1, BROKEN)

    def close(self) -> None:
        """End the line."""
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _words() -> list[str]:
    return [word for option in _OPTIONS for word in ("-o", option)]


def _watch(process: subprocess.Popen[bytes], advance: Callable[[int], None]) -> None:
    """Read what rsync tells of its progress until it ends."""
    assert process.stdout is not None, "it is a pipe"
    told, begun = 0, b""
    while data := os.read(process.stdout.fileno(), 1 << 16):
        *parts, begun = re.split(rb"[\r\n]", begun + data)
        for part in parts:
            if match := _TOLD.match(part):
                now = int(match[1].replace(b",", b""))
                advance(now - told)
                told = now
    process.stdout.close()


def _last(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
