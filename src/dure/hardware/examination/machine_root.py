"""A machine as a directory: its files, and what its own programs say.

The directory is `/` for this machine. Any other is a recording: `commands/ethtool -k eth0` below it holds
what that command wrote, with `_` for each `/`; a first line `exit 1` says that it failed.
The only module of an examination that reads files and runs programs.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["MachineRoot", "MissingProgramError", "UnreadableError"]

ANSWER_S = 20.0
_UNKNOWN = {errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ENODATA, errno.EOPNOTSUPP, errno.ENXIO}
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class UnreadableError(Exception):
    """Something of a machine cannot be read; the text says why, for a person."""


class MissingProgramError(UnreadableError):
    """The program that knows it is not installed."""


class MachineRoot:
    """Read one machine. directory: stands for `/`. answer_s: how long a program may take."""

    def __init__(self, directory: Path = Path("/"), answer_s: float = ANSWER_S) -> None:
        self.directory, self._answer_s = directory, answer_s
        self._is_here = directory == Path("/")

    def at(self, path: str) -> Path:
        """Return where an absolute path of the machine lies."""
        return self.directory / path.lstrip("/")

    def has(self, path: str) -> bool:
        """Return whether there is such a file, folder or link."""
        return os.path.lexists(self.at(path))

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder; none if it is not there. Raises UnreadableError."""
        try:
            return sorted(path.name for path in self.at(folder).iterdir())
        except OSError as error:
            if error.errno in _UNKNOWN:
                return []
            raise _unreadable(folder, error) from error

    def numbered(self, folder: str, prefix: str = "") -> list[str]:
        """Return the paths in a folder whose names are a prefix and a number, by number."""
        found = [n for n in self.names(folder) if re.fullmatch(rf"{re.escape(prefix)}\d+", n)]
        return [f"{folder}/{n}" for n in sorted(found, key=lambda n: int(n.removeprefix(prefix)))]

    def data(self, path: str, most: int = -1) -> bytes:
        """Return a file's first bytes; none if it is not there, or the kernel has nothing to say.

        Raises UnreadableError.
        """
        try:
            with self.at(path).open("rb") as file:
                return file.read(most)
        except OSError as error:
            if error.errno in _UNKNOWN:
                return b""
            raise _unreadable(path, error) from error

    def text(self, path: str) -> str:
        """Return a file's text without blanks around it, as `data` does. Raises UnreadableError."""
        return self.data(path).decode(errors="replace").strip("\0 \n\t")

    def number(self, path: str) -> int | None:
        """Return the whole number in a file, None if there is none. Raises UnreadableError."""
        text = self.text(path)
        return whole_number(text, path) if text else None

    def write(self, path: str, text: str) -> None:
        """Write a file that exists, as a setting of the kernel is. Raises OSError."""
        with self.at(path).open("r+") as file:
            file.truncate()
            file.write(text)

    def link(self, path: str) -> str:
        """Return where a symbolic link leads; "" if it is none, or may not be read."""
        try:
            return str(self.at(path).readlink())
        except OSError:
            return ""

    def knows(self, program: str) -> bool:
        """Return whether the machine has a program."""
        if self._is_here:
            return _found(program) is not None
        folder = self.directory / "commands"
        return any(name.split()[0] == program for name in _listed(folder))

    def output(self, *command: str) -> str:
        """Return what a command writes. Raises UnreadableError if it fails, or is not installed."""
        words = " ".join(command)
        if not self.knows(command[0]):
            raise MissingProgramError(f"`{command[0]}` is not installed")
        status, text = self._run(command) if self._is_here else self._recorded(words)
        if status:
            last = (text.strip().splitlines() or [f"it ends with status {status}"])[-1]
            raise UnreadableError(f"`{words}` says: {last.strip()}")
        return text

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        program = _found(command[0]) or command[0]
        try:
            done = subprocess.run(
                [program, *command[1:]],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._answer_s,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 1, f"no answer in {self._answer_s:.0f} s"
        except OSError as error:
            return 1, error.strerror or str(error)
        return done.returncode, done.stdout or done.stderr

    def _recorded(self, words: str) -> tuple[int, str]:
        try:
            text = (self.directory / "commands" / words.replace("/", "_")).read_text()
        except OSError:
            return 1, "it was not recorded"
        first, _, rest = text.partition("\n")
        failed = re.fullmatch(r"exit (\d+)", first)
        return (int(failed[1]), rest) if failed else (0, text)


def whole_number(text: str, source: str) -> int:
    """Return a whole number. Raises UnreadableError that names the source of a text that is none."""
    try:
        return int(text, 0) if text.startswith("0x") else int(text)
    except ValueError:
        raise UnreadableError(f"{source} says {text[:40]!r}, which is no number") from None


def _found(program: str) -> str | None:
    """Return the path of a program: users without privileges have no /usr/sbin in their PATH."""
    return shutil.which(program) or shutil.which(program, path=_SYSTEM_PATH)


def _listed(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _unreadable(path: str, error: OSError) -> UnreadableError:
    return UnreadableError(f"{path} cannot be read ({error.strerror})")
