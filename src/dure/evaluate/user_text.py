"""Texts that a user gives, as they are read from files."""

from __future__ import annotations

from pathlib import Path

from dure.errors import ResourceError, UsageError

__all__ = ["read_text"]


def read_text(path: Path, option: str) -> str:
    """Return the text of a file without its last line end, as llama.cpp's tools read it.

    Raises ResourceError if it cannot be read, UsageError if it is no text; they name the option.
    """
    try:
        return path.read_bytes().decode("utf-8").removesuffix("\n")
    except OSError as error:
        raise ResourceError(f"{option} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{option} {path} is no text", "name a file in UTF-8") from None
