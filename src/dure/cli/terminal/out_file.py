"""Checks the file that a command will write, before the command works for a long time."""

from __future__ import annotations

from pathlib import Path

from dure.errors import ResourceError, UsageError
from dure.places import free_bytes
from dure.sizes import compared

__all__ = ["check_folder", "check_not_there", "check_room"]


def check_not_there(path: Path, *, force: bool) -> None:
    """Check that no file is replaced unless --force was given. Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name a file")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", "add --force to replace it")


def check_folder(path: Path) -> None:
    """Check that the folder of a file is there. Raises UsageError."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "make it, or name another file")


def check_room(path: Path, size_bytes: float) -> None:
    """Check that the disk has room for a file, in a folder that may be missing. Raises ResourceError."""
    free = free_bytes(path.absolute().parent)
    if free < size_bytes:
        needed, left = compared(size_bytes, free)
        raise ResourceError(
            f"{path} needs {needed}, and {left} are free there",
            "make room, or name another place with --out",
        )
