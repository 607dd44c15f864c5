"""`dure node`: runs, installs and adds the agents that work for a cluster's root."""

from __future__ import annotations

from typing import Annotated

import typer

from dure.cli.terminal.clock import warn_of_clock
from dure.cli.terminal.console import errors, output, print_json
from dure.cli.terminal.parameters import Json, ServiceUser
from dure.cli.terminal.run_by_default import RunByDefault
from dure.cluster.node.membership import forget
from dure.cluster.node.process import run_node
from dure.cluster.node.service import install_node
from dure.cluster.node.shards import ShardStore
from dure.cluster.software import NODE_UNIT
from dure.cluster.trust.identity import Credentials
from dure.cluster.trust.joining import JOIN_PORT, NodeFile, listens
from dure.errors import UsageError
from dure.places import cluster_directory, node_directory
from dure.sizes import bytes_text
from dure.systemd import service_for

__all__ = ["node"]


node = typer.Typer(
    cls=RunByDefault,
    help="Run this machine as a node of a cluster. Alone, `dure node` means `dure node run`.",
)


Quota = Annotated[
    float | None,
    typer.Option(help="Limit for shards, in GB.", show_default="as much as fits"),
]
Interface = Annotated[
    str | None,
    typer.Option(
        help="Network device that this node's rank uses, as in eth0.",
        show_default="the one that the root connects through",
    ),
]


@node.command()
def run(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104  # TLS lets only the root in
    port: Annotated[
        int | None, typer.Option(help="Port to listen on.", show_default="as joined")
    ] = None,
    quota: Quota = None,
    interface: Interface = None,
) -> None:
    """Work for the root until Ctrl-C or SIGTERM. Only the root can connect, with its certificate.

    Example: dure node
    """
    directory = node_directory()
    if (own := Credentials(directory)).exist:
        warn_of_clock(own)
    is_node = run_node(
        directory,
        host,
        port,
        _announce,
        quota_bytes=_quota_bytes(quota),
        interface=interface or "",
    )
    if not is_node:
        errors.print("the cluster is dissolved: this machine is no node any more", markup=False)


def _quota_bytes(quota: float | None) -> int:
    if quota is not None and not 0 < quota < 1e6:
        raise UsageError(f"--quota {quota:g}", "give GB, above 0 and below a million")
    return int((quota or 0) * 1e9)


@node.command()
def install(user: ServiceUser = None, quota: Quota = None, interface: Interface = None) -> None:
    """Start the node with this machine, as a systemd service of a user without privileges.

    With sudo it is a system service, without it one of your own. The unit contains these options.

    Example: sudo dure node install --user pi
    """
    _quota_bytes(quota)
    service = service_for(NODE_UNIT, user)
    install_node(
        service,
        [
            *(["--quota", f"{quota:g}"] if quota else []),
            *(["--interface", interface] if interface else []),
        ],
    )
    errors.print(f"{service.path} runs the node as {service.user}", markup=False)
    errors.print(f"its log: {service.log}", markup=False)


@node.command()
def uninstall(user: ServiceUser = None) -> None:
    """Stop the node's service and remove it. The node's certificate and shards stay.

    Example: sudo dure node uninstall
    """
    service = service_for(NODE_UNIT, user)
    service.uninstall()
    errors.print(f"{service.path} is removed", markup=False)


@node.command()
def status(as_json: Json = False) -> None:
    """Show which cluster this machine is a node of, and what it stores for it.

    Example: dure node status
    """
    directory = node_directory()
    own, shards = NodeFile.read(directory), ShardStore(directory / "shards").all()
    facts = {
        "name": own.name,
        "cluster": own.cluster,
        "port": own.port,
        "answers": listens(own.port),
        "directory": str(directory),
        "shards": len(shards),
        "shards_bytes": sum(shard.size_bytes for shard in shards),
    }
    if as_json:
        print_json(facts)
        return
    answers = "answers" if facts["answers"] else "does not answer: `dure node` starts it"
    output.print(f"{own.name}, a node of the cluster {own.cluster}", markup=False)
    output.print(f"port {own.port} {answers}", markup=False)
    stored = f"{len(shards)} shards, {bytes_text(sum(shard.size_bytes for shard in shards))}"
    output.print(f"{stored} in {directory}", markup=False, soft_wrap=True)


@node.command()
def leave() -> None:
    """Leave the cluster: delete this node's certificate, its shards, and all else it stored.

    Stop the node first. On the root, remove it with `dure cluster remove`.

    Example: dure node leave
    """
    directory = node_directory()
    own = NodeFile.read(directory)
    if listens(own.port):
        raise UsageError("the node still runs", "stop it first, by `dure node uninstall` or Ctrl-C")
    forget(directory)
    errors.print(f"this machine is no longer a node of the cluster {own.cluster}", markup=False)
    errors.print(f"on the root: `dure cluster remove {own.name}`", markup=False)


@node.command()
def add(
    hosts: Annotated[
        list[str],
        typer.Argument(
            help="Machines, as for ssh: HOST, USER@HOST or USER@HOST:PORT.", show_default=False
        ),
    ],
    package: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Package to install: a local wheel, sdist or checkout, or a name for pip, as in "
            "dure==1.0.",
            show_default="the one this dure was installed from",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the node, if there is one host.", show_default="the host's name"
        ),
    ] = None,
    user: Annotated[
        str, typer.Option(help="User that the node runs as, if ssh logs in as root.")
    ] = "dure",
    root: Annotated[
        str | None,
        typer.Option(
            help="Address of this machine, for the hosts.", show_default="where ssh comes from"
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of this root that nodes join at.")] = JOIN_PORT,
    service: Annotated[
        bool, typer.Option("--service/--no-service", help="Install a service that runs the node.")
    ] = True,
    reinstall: Annotated[
        bool, typer.Option("--reinstall", help="Install even if this version is installed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the hosts and show what would be run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make other machines nodes over ssh: install dure, join, start the service. Run it on the root.

    ssh must let you in with a key. Finished steps are skipped, so after a failure run the same
    command again.

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
    """Return the join server's address, with its port if `root` names none."""
    return root if ":" in root else f"{root}:{port}"


def _announce(what: str, is_announced: bool) -> None:
    hint = "" if is_announced else " (mDNS does not work here: keep this address)"
    errors.print(f"{what}{hint}", markup=False)
