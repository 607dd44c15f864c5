"""Reads the key that an upstream wants, from a file of its own. Refuses to show it."""

from __future__ import annotations

from pathlib import Path

from dure.errors import UsageError
from dure.private_file import private_text

__all__ = ["read_key"]


def read_key(path: Path) -> bytes:
    """Return the key that a file holds. Raises UsageError, never naming the key."""
    found = private_text(path.expanduser(), "the key of the upstream").strip()
    if not found or not found.isascii() or not found.isprintable() or " " in found:
        raise UsageError(f"{path} holds no key", "write the key of the upstream, and nothing else")
    return found.encode()
