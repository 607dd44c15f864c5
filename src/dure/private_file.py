"""Files that hold a secret: read only if nobody else can.

Refuses to know what the secret is for, and never tells any of its text.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dure.errors import UsageError

__all__ = ["private_text"]

_LARGEST_BYTES = 1 << 20


def private_text(path: Path, what: str = "a key") -> str:
    """Return the text of a file that nobody else may read. what: it should hold.

    Raises UsageError if it cannot be read, others can read it, or it is no text.
    """
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()), what)
            return file.read(_LARGEST_BYTES).decode()
    except OSError as error:
        raise UsageError(f"{path}: cannot read {what}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text", f"name a file of text with {what}") from None


def _check_private(path: Path, status: os.stat_result, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is no file", f"name a file of text with {what}")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            f"{path} can be read by other users of this machine",
            f"`chmod 600 {path}`, and replace {what} if somebody else uses this machine",
        )
    if status.st_size > _LARGEST_BYTES:
        raise UsageError(f"{path} is larger than 1 MiB", f"name a file of text with {what}")
