"""`dure node`: the agent that makes a machine's work available to its cluster."""

from __future__ import annotations

import socket
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dure.cli.terminal.console import bytes_text, errors, output, print_json
from dure.cli.terminal.parameters import Json
from dure.cluster.node.process import forget, run_node
from dure.cluster.node.service import Service, service_for
from dure.cluster.node.shards import ShardStore
from dure.cluster.trust.joining import JOIN_PORT, NodeFile
from dure.errors import ResourceError, UsageError
from dure.places import cluster_directory, node_directory

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


Quota = Annotated[
    float | None,
    typer.Option(help="GB that shards may take here.", show_default="as much as fits"),
]
Interface = Annotated[
    str | None,
    typer.Option(
        help="The network device that this node's rank uses, as in eth0.",
        show_default="the one that the root comes through",
    ),
]


@node.command()
def run(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",  # noqa: S104  # TLS lets only the root in
    port: Annotated[
        int | None, typer.Option(help="The port to listen on.", show_default="as joined")
    ] = None,
    quota: Quota = None,
    interface: Interface = None,
) -> None:
    """Answer the root until Ctrl-C or SIGTERM. Only the cluster's root is let in, by its certificate.

    Example: dure node
    """
    run_node(
        node_directory(),
        host,
        port,
        _announce,
        quota_bytes=_quota_bytes(quota),
        interface=interface or "",
    )


def _quota_bytes(quota: float | None) -> int:
    if quota is not None and not 0 < quota < 1e6:
        raise UsageError(f"--quota {quota:g}: give GB, above 0 and below a million")
    return int((quota or 0) * 1e9)


User = Annotated[
    str | None,
    typer.Option(help="Whose rights it has.", show_default="yours; with sudo, of who called it"),
]


@node.command()
def install(user: User = None, quota: Quota = None, interface: Interface = None) -> None:
    """Let the node start with this machine: a systemd service of a user without privileges.

    With sudo it is a service of the system; without, one of your own. What is given here is in its unit.

    Example: sudo dure node install --user pi
    """
    _quota_bytes(quota)
    service = service_for(user)
    service.install(
        [
            *(["--quota", f"{quota:g}"] if quota else []),
            *(["--interface", interface] if interface else []),
        ]
    )
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


@node.command()
def status(as_json: Json = False) -> None:
    """Show which cluster this machine is a node of, and what it keeps for it.

    Example: dure node status
    """
    directory = node_directory()
    own, shards = NodeFile.read(directory), ShardStore(directory / "shards").all()
    facts = {
        "name": own.name,
        "cluster": own.cluster,
        "port": own.port,
        "answers": _listens(own.port),
        "directory": str(directory),
        "shards": len(shards),
        "shards_bytes": sum(held.size_bytes for held in shards),
    }
    if as_json:
        print_json(facts)
        return
    answers = "answers" if facts["answers"] else "does not answer: `dure node` starts it"
    output.print(f"{own.name}, a node of the cluster {own.cluster}", markup=False)
    output.print(f"port {own.port} {answers}", markup=False)
    kept = f"{len(shards)} shards, {bytes_text(sum(held.size_bytes for held in shards))}"
    output.print(f"{kept} in {directory}", markup=False, soft_wrap=True)


@node.command()
def leave() -> None:
    """Leave the cluster: delete this node's certificate, its shards, and all else it kept.

    Stop the node first. The root forgets it by `dure cluster remove`.

    Example: dure node leave
    """
    directory = node_directory()
    own = NodeFile.read(directory)
    if _listens(own.port):
        raise UsageError(
            "the node still runs: end it first, by `dure node uninstall` or Ctrl-C where it runs"
        )
    try:
        forget(directory)
    except OSError as error:
        raise ResourceError(f"{error.filename} cannot be deleted: {error.strerror}") from error
    errors.print(f"this machine is no node of the cluster {own.cluster} any more", markup=False)
    errors.print(f"on the root: `dure cluster remove {own.name}`", markup=False)


def _listens(port: int) -> bool:
    """Whether a node's agent answers here."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@node.command()
def add(
    hosts: Annotated[
        list[str],
        typer.Argument(
            help="As ssh takes them: HOST, USER@HOST or USER@HOST:PORT.", show_default=False
        ),
    ],
    package: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="What they install: a wheel, an sdist or a checkout that is here, or what pip takes, "
            "as dure==1.0.",
            show_default="where this dure came from",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the node is called.", show_default="the host's name")
    ] = None,
    user: Annotated[
        str, typer.Option(help="Whose rights the node has where one logs in as root.")
    ] = "dure",
    root: Annotated[
        str | None,
        typer.Option(
            help="This machine's address as they see it.", show_default="where ssh comes from"
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="This root's port for those who join.")] = JOIN_PORT,
    service: Annotated[
        bool, typer.Option("--service/--no-service", help="Install the service that runs the node.")
    ] = True,
    reinstall: Annotated[
        bool, typer.Option("--reinstall", help="Install anew where this version is already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at the hosts, and show what would be run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make nodes of other machines over ssh: install dure, join, start the service; on the root.

    ssh must let you in by a key. What is done already is passed over, so the same command goes on
    after a failure.

    Example: dure node add pi@192.168.1.11 pi@192.168.1.12
    """
    from dure.cli.terminal.add_report import add_machines, show_plan
    from dure.cluster.add.adding import destinations
    from dure.cluster.add.package import installed_from, package_of
    from dure.cluster.add.preparing import AddOptions
    from dure.cluster.root.membership import Cluster
    from dure.cluster.trust.identity import check_name

    cluster = Cluster(cluster_directory())
    options = AddOptions(
        installed_from() if package is None else package_of(package),
        name=check_name(name) if name else "",
        user=user,
        root=_address(root, port) if root else "",
        port=port,
        service=service,
        reinstall=reinstall,
    )
    work = show_plan if dry_run else add_machines
    if not work(cluster, destinations(hosts, options), options, as_json=as_json):
        raise typer.Exit(1)


def _address(root: str, port: int) -> str:
    """The join server's address; its port where none is said."""
    return root if ":" in root else f"{root}:{port}"


def _journal(service: Service) -> str:
    return f"journalctl {'-u' if service.of_system else '--user-unit'} dure-node -f"


def _announce(what: str, is_announced: bool) -> None:
    hint = "" if is_announced else " (mDNS does not work here: keep this address)"
    errors.print(f"{what}{hint}", markup=False)
