"""The command line: all commands, and how errors are reported.

The composition root: it wires the parts together and writes for a person.
Exit codes: 0 done, 1 failed, 2 a request that cannot be met as it stands, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from dure.cli.terminal.configuration import Configured
from dure.cli.terminal.lazy_commands import LazyCommand, LazyCommands
from dure.errors import DureError, UsageError

__all__ = ["app", "run"]

_FUNCTIONS = {"import": "import_model"}  # where a command's name is a word of Python's
COMMANDS = {
    name: LazyCommand(
        f"dure.cli.commands.{_FUNCTIONS.get(name, name)}",
        summary,
        function=_FUNCTIONS.get(name, ""),
    )
    for name, summary in {
        "run": "Write one answer, streaming, on one rank or cut over several.",
        "chat": "Chat with a model. Ctrl-C stops an answer; /help lists the commands; "
        "Ctrl-D or /exit ends.",
        "serve": "Serve a model through the OpenAI, Anthropic and Ollama APIs, "
        "on one rank or several.",
        "route": "Put one address in front of servers: each request goes where it is answered best.",
        "ui": "Show the page of a server in a browser, until Ctrl-C.",
        "ps": "List the servers that run here and what they do, and running work on models.",
        "stop": "Stop a server: it takes no new requests and finishes running answers.",
        "pull": "Download a model to this machine; an interrupted download is resumed.",
        "import": "Make a GGUF file of a model in another format, such as a Hugging Face folder.",
        "ls": "List the models on this machine.",
        "rm": "Delete models from this machine, and the shards cut from them.",
        "show": "Show a model: architecture, size, types, context, and its cuts over 1 to 8 ranks.",
        "plan": "Plan before you buy: whether a model fits on machines, how fast it would run, and what it "
        "would cost.",
        "cut": "Cut a model into one GGUF per rank. Finished shards are verified and reused.",
        "quantize": "Write a model with smaller types: chosen for a size or a speed, or one of "
        "llama.cpp's mixtures.",
        "tune": "Tune a model with examples of yours: a small adapter, all of its weights, or a new model.",
        "bench": "Measure speed, time and bytes per token, and memory, on one rank or "
        "cut over several.",
        "imatrix": "Gather which columns of each tensor matter, for quantizing, on one rank or cut over "
        "several.",
        "eval": "Judge models: how near they are to their original, how well they answer, and how "
        "fast they are.",
        "join": "Make this machine a node of the cluster that issued the code.",
        "cluster": "Run one model on several machines.",
        "node": "Run this machine as a node of a cluster. Alone, `dure node` means `dure node run`.",
        "doctor": "Find what makes this machine slow or sick, and what cures it.",
        "pod": "Rent a GPU that nobody can forget: its price is shown before, and guards end it.",
        "cache": "List, check and delete what is cached: shards, and what `eval`, `quantize` and `tune` "
        "need not compute again.",
        "config": "Show and change the default values of options.",
    }.items()
}
COMMANDS |= {
    "serve install": LazyCommand(
        "dure.cli.commands.serve_service",
        "Keep a server running, from the start of this machine on, as a systemd service.",
        {"ignore_unknown_options": True},  # which are those of `serve`
    ),
    "serve uninstall": LazyCommand(
        "dure.cli.commands.serve_service",
        "Stop the server's service and remove it. Models and settings stay.",
    ),
}

OTHER_NAMES = {
    "ask": "run", "prompt": "run", "generate": "run", "start": "serve", "server": "serve",
    "status": "ps", "list": "ls", "models": "ls", "download": "pull", "get": "pull", "delete": "rm",
    "remove": "rm", "info": "show", "inspect": "show", "benchmark": "bench", "kill": "stop",
    "convert": "import", "split": "cut", "nodes": "cluster", "settings": "config",
    "evaluate": "eval", "judge": "eval", "perplexity": "eval", "check": "doctor", "diagnose": "doctor",
    "train": "tune", "finetune": "tune", "fine-tune": "tune",
    "router": "route", "proxy": "route", "web": "ui", "dashboard": "ui", "page": "ui",
}  # fmt: skip
"""What other programs, and people, call our commands."""


class Commands(Configured):
    """The commands of `dure`, each imported when it is run."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._lazy = LazyCommands(COMMANDS)
        self.commands = self._lazy  # type: ignore[assignment]  # typer only reads it
        self._is_listing = False

    def list_commands(self, _ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(self._lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; while all are listed, only its name and summary."""
        if self._is_listing:
            return self._lazy.summary(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, of one word or two; if there is none, name what other programs call so, or
        what is near.
        """
        if " ".join(args[:2]) in COMMANDS and len(args) > 1:
            args = [" ".join(args[:2]), *args[2:]]
        if ctx.resilient_parsing:  # the Tab key was pressed
            return self._outlined(args)
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], [*COMMANDS, *OTHER_NAMES], n=1)
            ours = [OTHER_NAMES.get(name, name) for name in near]
            meant = f", did you mean {ours[0]}?" if ours else ""
            raise UsageError(f"no such command {args[0]!r}{meant} (see `dure --help`)")
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: Any) -> Any:
        """Return the options that stand before a command; for the Tab key those that read no value."""
        found = super().get_params(ctx)
        if not ctx.resilient_parsing:
            return found
        from dure.cli.terminal.outlines import outlined_parameter

        return [outlined_parameter(one) for one in found]

    def _outlined(self, args: list[str]) -> Any:
        from dure.cli.terminal.outlines import outlined, outlines

        if not args or args[0] not in outlines():
            return None, None, []
        return args[0], outlined(args[0], outlines()[args[0]]), args[1:]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with every command's summary."""
        with self._listing():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the completions for a shell, with every command's summary."""
        with self._listing():
            found = super().shell_complete(ctx, incomplete)
        return [one for one in found if " " not in one.value]

    @contextmanager
    def _listing(self) -> Iterator[None]:
        self._is_listing = True
        try:
            yield
        finally:
            self._is_listing = False


app = typer.Typer(
    name="dure",
    cls=Commands,
    help="One large language model across the machines you own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # 40 ms, for --version alone

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


def run() -> None:
    """Run the command line; report the user's mistakes and the machine's faults in one line each."""
    signal.signal(signal.SIGTERM, _end)
    _accept_all_bytes()
    try:
        if os.environ.get("_DURE_COMPLETE") == "complete_bash":
            from dure.cli.terminal.completion import complete_bash

            complete_bash(lambda: app(prog_name="dure"))
        else:
            sys.exit(app(prog_name="dure", standalone_mode=False))
    except DureError as error:
        _print_error(error)
        sys.exit(error.exit_code)
    except TyperException as error:
        _print_misuse(error)
        sys.exit(error.exit_code)
    except typer.Abort:  # the input ended at a question
        _print_error(UsageError("no answer, so nothing was done"))
        sys.exit(1)
    except OSError as error:
        from dure.cli.terminal.system_faults import fault_of

        fault = fault_of(error)
        if fault is None:
            raise
        if error.errno == errno.ENOSPC:  # Python flushes once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _print_error(fault)
        sys.exit(1)


def _print_error(error: DureError) -> None:
    from dure.cli.terminal.console import print_error  # 40 ms, which the Tab key should not take

    print_error(error)


def _print_misuse(error: TyperException) -> None:
    """Report a command line that no command accepts; if it was empty, its help was shown already."""
    from dure.cli.terminal.misuse import misuse

    context: typer.Context | None = getattr(error, "ctx", None)
    see = f"see `{context.command_path if context else 'dure'} --help`"
    bad = misuse(error, see) if isinstance(error, typer.BadParameter) else None
    if bad:
        _print_error(bad)
    elif text := error.format_message().rstrip("."):
        _print_error(UsageError(f"{text[0].lower()}{text[1:]} ({see})"))


def _accept_all_bytes() -> None:
    """Let prompts and file names be bytes that are no text in this locale's encoding."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):  # None if the shell closed it
            stream.reconfigure(errors=errors)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # runs every `finally`, so that no rank is left running
