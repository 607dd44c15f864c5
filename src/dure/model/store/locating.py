"""Finds what a user calls a model: a file, a model on this machine, or one that can be pulled.

Refuses to know whether it should be pulled.
"""

from __future__ import annotations

from pathlib import Path

from dure.errors import UsageError
from dure.model.store.library import Library
from dure.model.store.names import Name, parse_name

__all__ = ["located"]


def located(text: str, library: Library) -> Path | Name:
    """Return the file of a model, of a split one its first part; or the name to pull it by.

    A path comes first, then models on this machine. Raises UsageError if it is neither, nor a name.
    """
    path = Path(text)
    if path.exists():
        return path
    if model := library.find(text):
        return model.path
    if _is_path(text):
        return path  # opening it reports best what is wrong
    try:
        return parse_name(text)
    except UsageError as error:
        raise UsageError(
            f"{error.problem} (and no file of this name is here)", error.cure
        ) from None


def _is_path(text: str) -> bool:
    """Return whether this can only be a path, existing or not."""
    if text.startswith(("hf:", "http://", "https://")):
        return False
    return text.startswith((".", "/", "~")) or (text.endswith(".gguf") and ":" not in text)
