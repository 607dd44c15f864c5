"""`dure serve install` and `dure serve uninstall`: have systemd keep a server running."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dure.cli.terminal.console import errors, write
from dure.cli.terminal.option_groups import collected
from dure.cli.terminal.parameters import ServiceUser
from dure.cli.terminal.serve_unit import SERVE_UNIT, check_model, environment_of, unit_text
from dure.cli.terminal.server_parameters import Guarding, Listening
from dure.http.settings import check_binding
from dure.systemd import Service, service_for

__all__ = ["serve_install", "serve_uninstall"]


def serve_install(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="MODEL and options, as for `dure serve`; what is not given comes from the configuration "
            "file at each start.",
            show_default=False,
        ),
    ],
    user: ServiceUser = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the unit, and install nothing.")
    ] = False,
) -> None:
    """Keep a server running, from the start of this machine on, as a systemd service.

    With sudo it is a system service, without it one of your own. Paths begin at this folder, and
    DURE_* variables keep the values that they have here.

    Example: dure serve install qwen3:4b --ctx 8192
    """
    given = _parsed(ctx, words)
    guarding, listening = collected(Guarding, given), collected(Listening, given)
    service, directory = service_for(SERVE_UNIT, user, may_be_root=dry_run), Path.cwd()
    environment = environment_of(service)
    check_binding(guarding.settings(listening))
    text = unit_text(service, words, directory, environment, guarding.deadline)
    if not given["pull"]:
        check_model(service, given["model"], directory, environment)
    if dry_run:
        write(text)
        if service.user == "root":
            text = "the service does not need root: to install it, name a user with --user"
            errors.print(text, markup=False, soft_wrap=True)
        return
    service.install(text)
    _explain(service, given["model"])


def serve_uninstall(user: ServiceUser = None) -> None:
    """Stop the server's service and remove it. Models and settings stay.

    Example: dure serve uninstall
    """
    service = service_for(SERVE_UNIT, user)
    service.uninstall()
    errors.print(f"{service.path} is removed", markup=False, soft_wrap=True)


def _parsed(ctx: typer.Context, words: list[str]) -> dict[str, Any]:
    """Return the parameters of `dure serve` with these words. Raises what it raises for them."""
    assert ctx.parent is not None, "a command of dure"
    commands: Any = ctx.parent.command
    serve = commands.get_command(ctx.parent, "serve")
    parsed: dict[str, Any] = serve.make_context("serve", list(words), parent=ctx.parent).params
    return parsed


def _explain(service: Service, model: str) -> None:
    for line in (
        f"{service.path} serves {model} as {service.user}, now and with every start of this machine",
        f"its log:   {service.log}",
        f"stop it:   {service.control('stop')}",
        f"start it:  {service.control('start')}",
        "remove it: dure serve uninstall",
    ):
        errors.print(line, markup=False, soft_wrap=True)
