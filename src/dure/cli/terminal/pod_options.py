"""Options and questions that several `dure pod` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dure.cli.terminal.console import errors
from dure.errors import UsageError

__all__ = ["MaxDaily", "MaxHourly", "PodName", "SshKey", "Yes", "ask", "tell"]

PodName = Annotated[str, typer.Argument(metavar="NAME", help="The pod.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SshKey = Annotated[
    Path | None,
    typer.Option(help="Your private key for ssh.", show_default="one that dure makes"),
]
MaxHourly = Annotated[float, typer.Option(help="Most that all pods may cost an hour, in dollars.")]
MaxDaily = Annotated[
    float, typer.Option(help="Most that all pods may cost in 24 hours, in dollars.")
]


def ask(question: str, *, yes: bool, as_json: bool = False) -> None:
    """Ask before something that costs money or deletes files. Raises UsageError without an answer."""
    if yes:
        return
    if as_json:
        raise UsageError("--json asks nothing, and this has to be agreed to", "add --yes")
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was done")


def tell(text: str) -> None:
    """Write a line for a person."""
    errors.print(text, markup=False, soft_wrap=True)
