"""Imports commands when they are run: `dure --help` shows them all and imports none.

Knows each command's module and its summary. A test compares the summaries with the commands' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

__all__ = ["LazyCommand", "LazyCommands"]


@dataclass(frozen=True)
class LazyCommand:
    """A command or a group of commands, and the module that defines it under its own name.

    A blank in the name, as in `serve install`, is _ in the module. settings: of the command's context.
    function: what the module calls it, if its own name is a word of Python's.
    """

    module: str
    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    function: str = ""


class LazyCommands(Mapping[str, Any]):
    """Commands by name, each imported when it is first looked up."""

    def __init__(self, commands: Mapping[str, LazyCommand]) -> None:
        self._commands = commands
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _loaded(name, self._commands[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)

    def __contains__(self, name: object) -> bool:
        return name in self._commands

    def summary(self, name: str) -> TyperCommand | None:
        """Return a command that can be listed but not run; None if there is none of this name."""
        if name not in self._commands:
            return None
        return TyperCommand(name, help=self._commands[name].summary)


def _loaded(name: str, lazy: LazyCommand) -> Any:
    found = getattr(import_module(lazy.module), lazy.function or name.replace(" ", "_"))
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command(name, context_settings=dict(lazy.settings))(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command
