"""Reads JSON that somebody else wrote: of bounded size, one value for a name, an object at the top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dure.errors import ModelError
from dure.model.gguf.values import one_line

__all__ = ["parsed", "read_json", "read_text"]

MOST_BYTES = 128 << 20  # the tokenizer.json of 262,144 tokens has 33 MB


def read_text(path: Path) -> str:
    """Return the text of a file. Raises ModelError if it is missing, too large, or no UTF-8."""
    name = one_line(path.name)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise ModelError(f"{name} has more than {MOST_BYTES} bytes", "get the model again")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ModelError(f"{name} is no text in UTF-8", "get the model again") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of JSON holds; {} if there is no such file. Raises ModelError."""
    return parsed(read_text(path), one_line(path.name)) if path.exists() else {}


def parsed(text: str | bytes, name: str) -> dict[str, Any]:
    """Return the object that a text is. name: of its file. Raises ModelError if it is none."""
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, ValueError) else "it is nested too deeply"
        raise ModelError(f"{name} is no JSON: {one_line(str(reason))}", "get it again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{name} holds no object", "get it again")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found
