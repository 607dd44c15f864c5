"""Finds the rules of a router: in the file of `--rules`, or in the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.parameters import SERVER
from dure.errors import UsageError
from dure.places import config_file
from dure.route.rules_file import read_rules
from dure.route.upstream import RouteRules

__all__ = ["OwnRulesFile", "RulesFile", "own_rules", "rules_of"]

RulesFile = Annotated[
    Path | None,
    typer.Option(
        "--rules",
        metavar="FILE",
        help="TOML file whose table [route] has the rules.",
        show_default="the configuration file",
        rich_help_panel=SERVER,
    ),
]
OwnRulesFile = Annotated[
    Path | None,
    typer.Option(
        "--rules",
        metavar="FILE",
        help="Route requests to other servers too: TOML file whose table [route] has an upstream with "
        'url = "here", which is MODEL.',
        show_default="the configuration file, if it has one",
        rich_help_panel=SERVER,
    ),
]


def rules_of(file: Path | None) -> RouteRules:
    """Return the rules of a file, or of the configuration file. Raises UsageError, ResourceError."""
    if file is not None:
        return read_rules(file)
    if not config_file().exists():
        raise UsageError(
            "no rules are given, and there is no configuration file",
            f"write them into {config_file()}, or give --rules FILE",
        )
    return read_rules(config_file())


def own_rules(file: Path | None) -> RouteRules | None:
    """Return the rules of a server that routes, None for one that does not. Raises UsageError."""
    if file is None:
        names_it = config_file().exists() and "[route" in config_file().read_text(errors="replace")
        found = read_rules(config_file()) if names_it else None
        return found if found is not None and found.has_own_model else None
    found = read_rules(file)
    if not found.has_own_model:
        raise UsageError(
            f"{file} names no upstream for the model that is served here",
            'add [route.upstreams.here] with url = "here", or start `dure route serve`',
        )
    return found
