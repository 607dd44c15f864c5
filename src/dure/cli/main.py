"""The command line: `dure run`, `chat`, `show`, `cut`, `bench`.

The composition root: it wires the parts together and knows how to talk to a person.
Exit codes: 0 done, 1 failed, 2 asked for something that makes no sense, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer

from dure.cli.bench import bench
from dure.cli.chat import chat
from dure.cli.console import errors
from dure.cli.cut import cut
from dure.cli.run import run
from dure.cli.show import show
from dure.errors import DureError

__all__ = ["app", "main"]

app = typer.Typer(
    name="dure",
    help="One large language model across the machines you own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run, chat, show, cut, bench):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"dure {version('dure')}\n")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """One large language model across the machines you own."""


def main() -> None:
    """Run the command line; a user's mistakes and a machine's troubles are told in one line."""
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except DureError as error:
        errors.print(f"dure: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: be quiet
        sys.exit(0)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # through every `finally`, so that no rank is left behind


if __name__ == "__main__":
    main()
