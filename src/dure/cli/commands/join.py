"""`dure join`: makes this machine a node of a cluster."""

from __future__ import annotations

import socket
import sys
from typing import Annotated

import msgspec
import typer

from dure.cli.terminal.clock import warn_of_clock
from dure.cli.terminal.console import errors, write
from dure.cluster.software import NODE_UNIT
from dure.cluster.trust.discovery import JOIN_SERVICE, Address, found
from dure.cluster.trust.identity import Credentials, check_name
from dure.cluster.trust.invitation import Code
from dure.cluster.trust.joining import JOIN_PORT, NODE_PORT, NodeFile, is_root, listens
from dure.cluster.trust.joining import join as join_cluster
from dure.errors import ClusterError, DureError, ErrorRecord, UsageError
from dure.places import node_directory

__all__ = ["join"]

FIND_S = 10.0


def join(
    code: Annotated[
        str,
        typer.Argument(
            help="Code that `dure cluster invite` shows; - reads it from standard input, so that no "
            "process list shows it.",
            show_default=False,
        ),
    ],
    root: Annotated[
        str | None,
        typer.Option(help="Root's HOST or HOST:PORT.", show_default="found by mDNS"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of this node.", show_default="the host's name")
    ] = None,
    port: Annotated[int, typer.Option(help="Port that its agent will listen on.")] = NODE_PORT,
    force: Annotated[
        bool,
        typer.Option("--force", help="Join even if this machine is a node of a cluster already."),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one line of JSON: the node, or why it did not join (kind, problem, cure, "
            "facts).",
        ),
    ] = False,
) -> None:
    """Make this machine a node of the cluster that issued the code.

    Example: dure join 4QX7M-... --root 192.168.1.10
    """
    before = _before()
    try:
        node = _joined(code, root, name, port, force=force)
    except DureError as error:
        if as_json:
            _print_line(error.record())
        raise
    if as_json:
        _print_line(node)
    errors.print(f"this machine is {node.name} of cluster {node.cluster}", markup=False)
    warn_of_clock(Credentials(node_directory()))
    if before and (before.name, before.port) != (node.name, node.port) and listens(before.port):
        errors.print(
            f"`dure node` still answers as {before.name} at port {before.port}: restart it, a service by "
            f"`sudo systemctl restart {NODE_UNIT}`",
            markup=False,
        )
    else:
        errors.print("next: `dure node` answers the root", markup=False)


def _before() -> NodeFile | None:
    """Return what this machine was until now; None if it was no node."""
    try:
        return NodeFile.read(node_directory())
    except ClusterError:
        return None


def _print_line(record: NodeFile | ErrorRecord) -> None:
    write(msgspec.json.encode(record).decode() + "\n")


def _joined(code: str, root: str | None, name: str | None, port: int, *, force: bool) -> NodeFile:
    """Join, and return what this machine stores of its cluster. Raises UsageError, ClusterError."""
    typed = sys.stdin.readline().strip() if code == "-" else code
    parsed, directory = Code.parse(typed), node_directory()
    if Credentials(directory).exist and not force:
        raise UsageError(
            f"this machine is {Credentials(directory).name} of a cluster already",
            "--force joins another cluster, or the same one again",
        )
    own_name = check_name(name or _host_name())
    if not 0 < port < 1 << 16:
        raise UsageError(f"--port {port}", "give a number from 1 to 65535")
    return join_cluster(directory, parsed, _address(root, parsed), own_name, port)


def _host_name() -> str:
    return socket.gethostname().partition(".")[0].lower().replace("_", "-")


def _address(root: str | None, code: Code) -> Address:
    if root is None:
        errors.print("looking for the root", markup=False)

        def proven(address: Address) -> Address | None:
            return address if is_root(code, address) else None

        at = found(JOIN_SERVICE, "authority", code.authority, FIND_S, proven)
        if at is None:
            raise ClusterError(
                f"the code's root was not found within {FIND_S:g} s",
                "does `dure cluster invite` run there, and is the code from it? On another network, "
                "give --root HOST",
            )
        return at
    host, colon, port = root.rpartition(":")
    if not colon or "]" in port or (host.count(":") and not host.startswith("[")):
        return root.strip("[]"), JOIN_PORT  # no port, or an IPv6 address
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--root {root}", "give HOST or HOST:PORT")
    return host.strip("[]"), int(port)
