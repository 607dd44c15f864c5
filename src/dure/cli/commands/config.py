"""`dure config`: shows what every option is set to and by what, and edits the file that sets them."""

from __future__ import annotations

import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomlkit
import typer
from rich.table import Table
from tomlkit.exceptions import TOMLKitError

from dure.cli.terminal.configuration import (
    DEFAULTS,
    Setting,
    check,
    effective,
    read_config,
)
from dure.cli.terminal.console import output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.errors import ResourceError, UsageError
from dure.places import config_file
from dure.whole_file import write_whole

__all__ = ["config"]

config = typer.Typer(help="Show and change the default values of options.", no_args_is_help=True)

BEGINNING = """\
# The values of dure's options, unless a flag or a DURE_* variable sets them.
# [defaults] is for every command that has the option; a section named after a command is for it alone.
# `dure config show` lists all options.

# [defaults]
# ctx = 8192

# [run]
# temp = 0.7
"""
Key = Annotated[
    str,
    typer.Argument(
        help="COMMAND.OPTION as run.ctx, or OPTION for all commands.", show_default=False
    ),
]


@config.command()
def show(
    ctx: typer.Context,
    command: Annotated[
        str | None, typer.Argument(help="Show only this command.", show_default="all")
    ] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Show what sets each option.")] = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only options that are not at their default.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the value that each option has now, without flags.

    Example: dure config show run --origin
    """
    table, group = read_config(config_file()), _group(ctx)
    check(table, group, config_file())
    settings = effective(group, table)
    known = {setting.command for setting in settings}
    if command is not None and command not in known:
        raise UsageError(f"{command}: no such command with options", ", ".join(sorted(known)))
    settings = [
        setting
        for setting in settings
        if command in (None, setting.command) and not (changed and setting.origin == "default")
    ]
    if as_json:
        print_json([_as_json(setting) for setting in settings])
    else:
        output.print(_table(settings, origin=origin))


def _as_json(setting: Setting) -> dict[str, Any]:
    return {
        "command": setting.command,
        "option": setting.key,
        "value": setting.value,
        "origin": setting.origin,
    }


def _table(settings: list[Setting], *, origin: bool) -> Table:
    table = Table("option", "value", box=None, pad_edge=False)
    if origin:
        table.add_column("origin")
    for setting in settings:
        row = [f"{setting.command}.{setting.key}", printable(setting.text)]
        table.add_row(*row, *([setting.origin] if origin else []))
    return table


@config.command()
def path() -> None:
    """Show the path of the configuration file, which may not exist yet.

    Example: dure config path
    """
    output.print(str(config_file()), soft_wrap=True)


@config.command()
def edit(ctx: typer.Context) -> None:
    """Open the configuration file in $VISUAL or $EDITOR, and check it afterwards.

    Example: dure config edit
    """
    file = config_file()
    if not file.exists():
        _write(file, BEGINNING)
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(editor), str(file)], check=False)
    except (OSError, ValueError) as error:
        raise ResourceError(f"cannot start {editor}", "set EDITOR to an editor of yours") from error
    if done.returncode:
        raise ResourceError(f"{editor} ended with code {done.returncode}; {file} is as it left it")
    check(read_config(file), _group(ctx), file)


@config.command(name="set")
def set_(
    ctx: typer.Context,
    key: Key,
    value: Annotated[str, typer.Argument(help="A number, true, false, or a text.")],
) -> None:
    """Set an option in the configuration file, and leave the rest of the file as it is.

    Example: dure config set run.ctx 8192
    """
    file = config_file()
    document = _document(file)
    section, name = _place(key)
    node = document
    for part in section.split("."):
        if part not in node:
            node[part] = tomlkit.table(is_super_table=part != section.split(".")[-1])
        node = node[part]
    node[_written(node, name)] = _value(value)
    text = tomlkit.dumps(document)
    check(tomllib.loads(text), _group(ctx), file)
    _write(file, text)


@config.command()
def unset(ctx: typer.Context, key: Key) -> None:
    """Remove an option from the configuration file.

    Example: dure config unset run.ctx
    """
    file = config_file()
    document = _document(file)
    section, name = _place(key)
    node: Any = document
    for part in section.split("."):
        node = node.get(part, {})
    written = _written(node, name)
    if written not in node:
        raise UsageError(f"{file} does not set {section}.{name}", "`dure config show --changed`")
    del node[written]
    text = tomlkit.dumps(document)
    check(tomllib.loads(text), _group(ctx), file)
    _write(file, text)


def _group(ctx: typer.Context) -> Any:
    return ctx.find_root().command


def _document(file: Path) -> Any:
    read_config(file) if file.exists() else None
    try:
        return tomlkit.parse(file.read_text() if file.exists() else "")
    except (TOMLKitError, OSError) as error:
        raise UsageError(f"{file}: {error}") from error


def _place(key: str) -> tuple[str, str]:
    """Return the section and the option that a key names."""
    section, _, name = key.rpartition(".")
    return section or DEFAULTS, name.lstrip("-")


def _written(node: Any, name: str) -> str:
    """Return the key as the file spells it, with dashes or underscores; new ones have dashes."""
    spelt = name.replace("_", "-")
    return next((str(key) for key in node if str(key).replace("_", "-") == spelt), spelt)


def _value(text: str) -> Any:
    """Return a TOML value, or the text itself if it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def _write(file: Path, text: str) -> None:
    try:
        write_whole(file.resolve(), text.encode())  # a link stays one
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror}") from error
