"""Takes options of every command from the environment and the configuration file.

Flags come first, then `DURE_<COMMAND>_<OPTION>` and `DURE_<OPTION>`, then the file's section of the
command and its `[defaults]`, then the option's default. No option is known here by name: they are
read from the commands, so that a new one needs no code here.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup, TyperOption

from dure.cli.terminal.misuse import cure_of
from dure.errors import DureError, ResourceError, UsageError
from dure.places import config_file

__all__ = [
    "DEFAULTS",
    "NUMBERS",
    "UNCONFIGURED",
    "Configured",
    "Setting",
    "check",
    "effective",
    "key_of",
    "options_of",
    "read_config",
]

DEFAULTS = "defaults"
NUMBERS = "N[,N]"  # what an option shows that takes one whole number, or a list in one text
UNCONFIGURED = {"config", "serve install", "serve uninstall"}  # a broken file must not stop repairs
RULES = {"route": "upstreams"}  # groups whose section has values and a table that are no options
OF_ANOTHER = {"serve install": "serve"}  # a command that takes the options of another
Table = Mapping[str, Any]
_WRITTEN: dict[type, tuple[tuple[type, ...], str]] = {  # how the file writes values of a type
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}


@dataclass(frozen=True)
class Setting:
    """One option of one command, its value now, and what sets it."""

    command: str
    key: str
    value: Any
    origin: str
    text: str

    @property
    def source(self) -> str:
        """Return what kind of thing sets it: environment, file or default."""
        return self.origin.split()[0]


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of the file, unchecked; empty if there is no file.

    Raises UsageError if it is no TOML, ResourceError if it cannot be read.
    """
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        if os.environ.get("DURE_CONFIG"):
            raise UsageError(
                f"DURE_CONFIG names {path}, which does not exist",
                "`dure config set` creates it, or unset DURE_CONFIG",
            ) from None
        return {}
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "correct it with `dure config edit`") from error


# ---------------------------------------------------------------- the options of the commands


def key_of(option: TyperOption) -> str:
    """Return an option's name in the file: its first long form without leading dashes."""
    long = [name for name in option.opts if name.startswith("--")]
    return (long or option.opts)[0].lstrip("-")


def options_of(command: Any) -> dict[str, TyperOption]:
    """Return the options of a command that can be configured, by key."""
    options = [p for p in command.params if isinstance(p, TyperOption)]
    return {
        key_of(option): option for option in options if option.expose_value and not option.is_eager
    }


def _commands(group: Any, only: str | None = None) -> dict[str, Any]:
    """Return the commands that can be configured, by their names in the file; `a.b` for one of a group.

    only: restrict them to the command or group of this name.
    """
    found: dict[str, Any] = {}
    for name in group.commands if only is None else [only]:
        if name in UNCONFIGURED:
            continue
        command = group.commands[name]
        if isinstance(command, TyperGroup):
            inner = _commands(command)
            found |= {f"{name}.{sub}": one for sub, one in inner.items()}
        else:
            found[name] = command
    return found


def _variables(command: str, key: str) -> list[str]:
    """Return the environment variables of an option; the first that is set counts."""

    def variable(text: str) -> str:
        return f"DURE_{text}".replace("-", "_").replace(".", "_").upper()

    return [variable(f"{command}.{key}"), variable(key)]


# ---------------------------------------------------------------- checking


def check(table: Table, group: Any, path: Path) -> None:
    """Raise UsageError, with similar names, for a section, key or value that no option has."""
    commands = _commands(group)
    for section, values in _sections(table, commands, path):
        known = _known(section, commands)
        for key, value in values.items():
            options = known.get(_spelt(key))
            place = f"{path}: [{section}] {key}"
            if options is None:
                raise UsageError(f"{place}: no such option", _near(_spelt(key), known))
            for option in options:
                _check_value(option, value, f"{place} = {value!r}")


def _sections(
    table: Table, commands: Mapping[str, Any], path: Path
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    groups = {name.partition(".")[0] for name in commands if "." in name}
    for section, values in table.items():
        if not isinstance(values, dict):
            raise UsageError(
                f"{path}: {section}", f"put it below a section, as [{DEFAULTS}] or [run]"
            )
        if section in groups:
            yield from _sections_of_group(section, values, commands, path)
        elif section in commands or section == DEFAULTS:
            yield section, values
        else:
            near = _near(section, [*commands, DEFAULTS])
            raise UsageError(f"{path}: [{section}]: no such command", near)


def _sections_of_group(
    group: str, values: Mapping[str, Any], commands: Mapping[str, Any], path: Path
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, inner in values.items():
        if group in RULES and (name == RULES[group] or not isinstance(inner, dict)):
            continue  # its commands read and check these
        section = f"{group}.{name}"
        if section not in commands or not isinstance(inner, dict):
            raise UsageError(f"{path}: [{section}]: no such command", _near(section, commands))
        yield section, inner


def _known(section: str, commands: Mapping[str, Any]) -> dict[str, list[TyperOption]]:
    """Return the keys of a section, and the options that each sets."""
    known: dict[str, list[TyperOption]] = {}
    for name, command in commands.items():
        if section in (name, DEFAULTS):
            for key, option in options_of(command).items():
                known.setdefault(key, []).append(option)
    return known


def _spelt(key: str) -> str:
    return key.replace("_", "-")


def _near(name: str, known: Mapping[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


def _check_value(option: TyperOption, value: Any, place: str) -> None:
    """Raise UsageError if a value of the file has a type that the option does not take."""
    many = option.multiple or option.nargs != 1
    if many != isinstance(value, list):
        raise UsageError(place, f"give {'a list' if many else 'one value'}")
    read = _read(option, value, place)
    for one, given in zip(read if many else [read], value if many else [value], strict=True):
        kinds, wanted = _WRITTEN.get(type(one), ((str,), "a text in quotes"))
        if option.metavar == NUMBERS:
            kinds = (str, int)  # one number, too
        if type(given) not in kinds:
            raise UsageError(place, f"give {wanted}")


def _read(option: TyperOption, value: Any, place: str) -> Any:
    """Return a value as the option parses it. Raises UsageError if it cannot."""
    try:
        return option.process_value(_no_context(), _given(option, value))
    except typer.BadParameter as error:
        raise UsageError(place, cure_of(error)) from error


def _given(option: TyperOption, value: Any) -> Any:
    """Return a value of the file as the command line would have it."""
    return str(value) if option.metavar == NUMBERS and type(value) is int else value


# ---------------------------------------------------------------- applying


class Configured(TyperGroup):
    """A group whose commands also take options from the environment and the file."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Resolve as the base does, and prepare the command's options from environment and file."""
        found = super().resolve_command(ctx, args)
        name, command = found[:2]
        if name is not None and command is not None:
            try:
                _prepare(ctx, self, name)
            except DureError:
                asks_for_help = any(word in {"-h", "--help"} for word in args)
                if not ctx.resilient_parsing and not asks_for_help:  # nor a shell, for completions
                    raise
        return found


def _prepare(ctx: Any, group: Any, name: str) -> None:
    name = OF_ANOTHER.get(name, name)
    if name in UNCONFIGURED:
        return
    table = read_config(config_file())
    if table:  # every command is imported to check it
        check(table, group, config_file())
    chosen = _commands(group, only=name)
    for full, command in chosen.items():
        _set_variables(full, command)
    ctx.default_map = _default_map(table, chosen)


def _set_variables(name: str, command: Any) -> None:
    """Check a command's environment variables and let its options read them."""
    for key, option in options_of(command).items():
        option.envvar, option.show_envvar = _variables(name, key), False
        for variable in option.envvar:
            if text := os.environ.get(variable):
                _read(option, option.value_from_envvar(_no_context()), f"{variable}={text}")
                break


def _no_context() -> typer.Context:
    return typer.Context(typer.core.TyperCommand("dure"))


def _default_map(table: Table, commands: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by parameter, nested as the commands are."""
    tree: dict[str, Any] = {}
    for name, command in commands.items():
        values = {
            option.name: _given(option, found[0])
            for key, option in options_of(command).items()
            if (found := _in_file(table, name, key)) is not None
        }
        *above, last = name.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = values
    return tree


def _in_file(table: Table, command: str, key: str) -> tuple[Any, str] | None:
    """Return the file's value of an option and its section; None if it has none."""
    own: Any = table
    for part in command.split("."):
        own = own.get(part, {})
    for section, values in ((command, own), (DEFAULTS, table.get(DEFAULTS, {}))):
        for written, value in values.items():
            if _spelt(written) == key:
                return value, section
    return None


def effective(group: Any, table: Table) -> list[Setting]:
    """Return every option of every command with its value now, without flags."""
    return [
        _setting(name, key, option, table)
        for name, command in _commands(group).items()
        for key, option in options_of(command).items()
    ]


def _setting(command: str, key: str, option: TyperOption, table: Table) -> Setting:
    for variable in _variables(command, key):
        if text := os.environ.get(variable):
            option.envvar = [variable]
            raw = option.value_from_envvar(_no_context())
            value = _read(option, raw, f"{variable}={text}")
            return Setting(command, key, _plain(value), f"environment {variable}", str(text))
    if found := _in_file(table, command, key):
        return Setting(command, key, found[0], f"file [{found[1]}]", _text(found[0]))
    value = _plain(option.get_default(_no_context(), call=False))
    if value is None and isinstance(option.show_default, str):
        return Setting(command, key, value, "default", option.show_default)
    return Setting(command, key, value, "default", _text(value))


def _text(value: Any) -> str:
    """Return a value as the file writes it, a text without quotes; empty for None."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    value = getattr(value, "value", value)  # of an enumeration
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
