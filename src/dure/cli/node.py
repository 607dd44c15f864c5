"""`dure node`: the agent that makes a machine's work available to its cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dure.cli.console import errors
from dure.cluster.node import node_directory, run_node
from dure.cluster.service import Service, service_for

__all__ = ["node"]


class _RunByDefault(TyperGroup):
    """`dure node` alone is `dure node run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base does, with the command that is meant where none is named."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


node = typer.Typer(
    cls=_RunByDefault, help="This machine as a node of a cluster; alone, `dure node` is `run`."
)


@node.command()
def run(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",  # noqa: S104  # TLS lets only the root in
    port: Annotated[
        int | None, typer.Option(help="The port to listen on.", show_default="as joined")
    ] = None,
) -> None:
    """Answer the root until Ctrl-C or SIGTERM. Only the cluster's root is let in, by its certificate.

    Example: dure node
    """
    run_node(node_directory(), host, port, _announce)


User = Annotated[
    str | None,
    typer.Option(help="Whose rights it has.", show_default="yours; with sudo, of who called it"),
]


@node.command()
def install(user: User = None) -> None:
    """Let the node start with this machine: a systemd service of a user without privileges.

    With sudo it is a service of the system; without, one of your own.

    Example: sudo dure node install --user pi
    """
    service = service_for(user)
    service.install()
    errors.print(f"{service.path} runs the node as {service.user}", markup=False)
    errors.print(f"what it says: {_journal(service)}", markup=False)


@node.command()
def uninstall(user: User = None) -> None:
    """Stop the node's service and remove it; what the node has stays.

    Example: sudo dure node uninstall
    """
    service = service_for(user)
    service.uninstall()
    errors.print(f"{service.path} is removed", markup=False)


def _journal(service: Service) -> str:
    return f"journalctl {'-u' if service.of_system else '--user-unit'} dure-node -f"


def _announce(what: str, is_announced: bool) -> None:
    hint = "" if is_announced else " (mDNS does not work here: keep this address)"
    errors.print(f"{what}{hint}", markup=False)
