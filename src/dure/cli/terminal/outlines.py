"""Commands as the Tab key needs them: their options, values and help, without what they do.

`outlines.json` has those of all commands, as importing a command takes half a second. `make docs` writes it
from the commands, and a test fails until then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from typer._coercion import resolve_type_descriptor
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import OptionInfo

from dure.cli.terminal import completion
from dure.cli.terminal.run_by_default import RunByDefault

__all__ = ["outline_of", "outlined", "outlined_parameter", "outlines"]

Outline = Mapping[str, Any]
_HELP = {"name": "help", "option": ["--help"], "is_flag": True, "help": "Show the help."}
_OTHERS_OPTIONS = "ignore_unknown_options"


@cache
def outlines() -> Mapping[str, Outline]:
    """Return the outlines of all commands, by name."""
    text = (resources.files("dure.cli.terminal") / "outlines.json").read_text("utf-8")
    return dict(json.loads(text))


def outline_of(command: Any) -> Outline:
    """Return a command's outline as plain data; what is empty is left out."""
    commands = getattr(command, "commands", {})
    return _without_empty(
        {
            "help": command.get_short_help_str(limit=200),
            "parameters": [_of_parameter(one) for one in command.params],
            "commands": {name: outline_of(one) for name, one in commands.items()},
            "runs": isinstance(command, RunByDefault),
            "settings": {k: v for k, v in command.context_settings.items() if k == _OTHERS_OPTIONS},
        }
    )


def _of_parameter(parameter: Any) -> Outline:
    described = parameter.type_descriptor
    completes = described.parameter_info.autocompletion
    is_option = isinstance(parameter, TyperOption)
    return _without_empty(
        {
            "name": parameter.name,
            "option": [*parameter.opts, *parameter.secondary_opts] if is_option else [],
            "is_flag": is_option and parameter.is_flag,
            "is_many": parameter.multiple or parameter.nargs == -1,
            "help": parameter.help,
            "values": [str(getattr(one, "value", one)) for one in described.choices or ()],
            "completes": completes and completes.__name__,
        }
    )


def _without_empty(facts: Outline) -> Outline:
    return {name: fact for name, fact in facts.items() if fact}


def outlined(name: str, outline: Outline) -> TyperCommand | TyperGroup:
    """Return a command that can be completed but not run."""
    settings: dict[str, Any] = {
        "name": name,
        "help": outline["help"],
        "params": [_parameter(one) for one in (*outline.get("parameters", ()), _HELP)],
        "add_help_option": False,  # the command's own one reads values
        "context_settings": outline.get("settings", {}),
    }
    if "commands" not in outline:
        return TyperCommand(**settings)
    commands: Any = {sub: outlined(sub, one) for sub, one in outline["commands"].items()}
    kind = RunByDefault if "runs" in outline else TyperGroup
    return kind(commands=commands, **settings)


def outlined_parameter(parameter: Any) -> TyperArgument | TyperOption:
    """Return a parameter that can be completed, and takes any value."""
    return _parameter(_of_parameter(parameter))


def _parameter(facts: Outline) -> TyperArgument | TyperOption:
    made: dict[str, Any] = {
        "help": facts.get("help"),
        "shell_complete": _proposer(facts),
        "type_descriptor": resolve_type_descriptor(str, OptionInfo()),
    }
    is_many = facts.get("is_many", False)
    if "option" not in facts:
        return _Argument(param_decls=[facts["name"]], nargs=-1 if is_many else 1, **made)
    names = [facts["name"], *facts["option"]]
    return _Option(param_decls=names, is_flag=facts.get("is_flag", False), multiple=is_many, **made)


def _proposer(facts: Outline) -> Any:
    def propose(_context: Any, _parameter: Any, incomplete: str) -> list[str]:
        if "completes" in facts:
            return list(getattr(completion, facts["completes"])(incomplete))
        return [value for value in facts.get("values", ()) if value.startswith(incomplete)]

    return propose


class _Unread:
    def process_value(self, ctx: Any, value: Any) -> Any:  # noqa: ARG002  # the base's
        """Return the value as it is: reading it takes time, and it is for nobody."""
        return value


class _Argument(_Unread, TyperArgument):
    pass


class _Option(_Unread, TyperOption):
    pass
