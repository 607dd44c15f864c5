"""Completes a MODEL in the shell, and names with colons in bash.

It must be quick and must not fail, as it runs each time Tab is pressed.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dure.errors import DureError

if TYPE_CHECKING:
    from dure.model.store import StoredModel

__all__ = ["complete_bash", "models", "pullable", "removable"]

MOST_FILES = 200


def models(incomplete: str) -> list[str]:
    """Return completions of a MODEL: models on this machine, GGUF files and folders."""
    return [*_stored(incomplete, unfinished=False), *_files(incomplete)]


def removable(incomplete: str) -> list[str]:
    """Return completions for `dure rm`: models on this machine, whole or unfinished."""
    return _stored(incomplete, unfinished=True)


def pullable(incomplete: str) -> list[str]:
    """Return completions for `dure pull`: the short names."""
    from dure.model.store.names import short_names

    return [name for name in short_names() if name.startswith(incomplete)]


def _stored(incomplete: str, *, unfinished: bool) -> list[str]:
    from dure.model.store import Library

    try:
        found = [model for model in Library().models() if unfinished or not model.unfinished]
    except (DureError, OSError):
        return []
    names = [name for model in found for name in _names(model)]
    return [name for name in names if name.startswith(incomplete)]


def _names(model: StoredModel) -> list[str]:
    return [name for name in (model.short_name, model.name) if name]


def _files(incomplete: str) -> list[str]:
    """Return .gguf files and folders, as paths that begin with what was typed."""
    folder, _, beginning = incomplete.rpartition("/")
    shown = f"{folder}/" if "/" in incomplete else ""
    try:
        entries = sorted(Path(shown or ".").expanduser().iterdir())
    except OSError:
        return []
    found = [
        f"{shown}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(beginning)
        and (beginning.startswith(".") or not entry.name.startswith("."))
        and (entry.is_dir() or entry.suffix == ".gguf")
    ]
    return found[:MOST_FILES]


def complete_bash(run: Callable[[], None]) -> None:
    """Run the completion for bash, which ends a word at a colon.

    The words that it split are joined again, and of each completion only the part after the last
    colon is printed, as this is the word that bash replaces.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    current = int(os.environ.get("COMP_CWORD", "0") or 0)
    joined, index = _join(words, current)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(index)
    word = joined[index] if index < len(joined) else ""
    prefix = word[: word.rfind(":") + 1]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            run()
    finally:
        lines = printed.getvalue().splitlines()
        sys.stdout.write("\n".join(line.removeprefix(prefix) for line in lines))
        sys.stdout.flush()


def _join(words: list[str], current: int) -> tuple[list[str], int]:
    """Return the words as a person sees them, and the index of the current one."""
    joined: list[str] = []
    place = 0
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        if joined and index > 1 and (word.startswith(":") or before.endswith(":")):
            joined[-1] += word
        else:
            joined.append(word)
        if index == current:
            place = len(joined) - 1
    return joined, place if current < len(words) else len(joined)
