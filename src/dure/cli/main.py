"""The command line: all commands, and how a person is told what went wrong.

The composition root: it wires the parts together and knows how to talk to a person.
Exit codes: 0 done, 1 failed, 2 asked for something that makes no sense, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException

from dure.cli.commands.bench import bench
from dure.cli.commands.cache import cache
from dure.cli.commands.chat import chat
from dure.cli.commands.cluster import cluster
from dure.cli.commands.config import config
from dure.cli.commands.cut import cut
from dure.cli.commands.join import join
from dure.cli.commands.ls import ls
from dure.cli.commands.node import node
from dure.cli.commands.ps import ps
from dure.cli.commands.pull import pull
from dure.cli.commands.rm import rm
from dure.cli.commands.run import run
from dure.cli.commands.serve import serve
from dure.cli.commands.show import show
from dure.cli.commands.stop import stop
from dure.cli.terminal.completion import complete_bash
from dure.cli.terminal.configuration import Configured
from dure.cli.terminal.console import print_error
from dure.errors import DureError, ResourceError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="dure",
    cls=Configured,
    help="One large language model across the machines you own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run, chat, serve, ps, stop, pull, ls, rm, show, cut, bench, join):
    app.command()(command)
for group, name in (
    (cluster, "cluster"),
    (node, "node"),
    (cache, "cache"),
    (config, "config"),
):
    app.add_typer(group, name=name)


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
    _accept_all_bytes()
    try:
        if os.environ.get("_DURE_COMPLETE") == "complete_bash":
            complete_bash(lambda: app(prog_name="dure"))
        else:
            sys.exit(app(prog_name="dure", standalone_mode=False))
    except DureError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except TyperException as error:
        _print_misuse(error)
        sys.exit(error.exit_code)
    except typer.Abort:  # the input ended where a question stood
        print_error(UsageError("nothing was answered, so nothing was done"))
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        print_error(ResourceError("no space left to write to: make room, or write elsewhere"))
        sys.exit(1)


def _print_misuse(error: TyperException) -> None:
    """A command line that no command takes; where there was none, its help has been shown."""
    if text := error.format_message().rstrip("."):
        context: typer.Context | None = getattr(error, "ctx", None)
        command = context.command_path if context else "dure"
        print_error(UsageError(f"{text[0].lower()}{text[1:]} (see `{command} --help`)"))


def _accept_all_bytes() -> None:
    """A prompt from a pipe or the name of a file may be no text in this locale's encoding."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):  # None, where the shell closed it
            stream.reconfigure(errors=errors)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # through every `finally`, so that no rank is left behind


if __name__ == "__main__":
    main()
