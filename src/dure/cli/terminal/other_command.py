"""Lets a command use another one, as if it had been typed: the configuration says what words do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

__all__ = ["other_command", "run_other"]


def other_command(context: typer.Context, name: str, words: Sequence[object]) -> typer.Context:
    """Return another command of dure with its options, ready to run. context: of the one that runs.

    Raises what it would raise for such words.
    """
    root = context.find_root()
    group: Any = root.command
    name, command, rest = group.resolve_command(root, [name, *map(str, words)])
    found: typer.Context = command.make_context(name, rest, parent=root)
    return found


def run_other(context: typer.Context, name: str, words: Sequence[object]) -> None:
    """Run another command of dure."""
    with other_command(context, name, words) as other:
        other.command.invoke(other)
