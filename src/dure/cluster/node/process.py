"""A node's own process: it answers the root until a signal ends it, or the node has left the cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dure.cluster.network import named_device
from dure.cluster.node.membership import note_name
from dure.cluster.trust.discovery import NODE_SERVICE, announced
from dure.cluster.trust.https_server import NodeServer, listener
from dure.cluster.trust.identity import Credentials, answering_context
from dure.cluster.trust.joining import NodeFile
from dure.errors import ClusterError
from dure.hardware.probe import health

__all__ = ["run_node"]


def run_node(
    directory: Path,
    host: str,
    port: int | None,
    announce: Callable[[str, bool], None],
    *,
    quota_bytes: int = 0,
    interface: str = "",
) -> bool:
    """Answer the root until SIGTERM or SIGINT, and return whether this machine is a node still.

    announce: gets the address, and whether mDNS announces it too; again if the root has renamed the node.
    quota_bytes, interface: as for `agent_app`. Raises ClusterError if this machine has not joined,
    ResourceError if the port is taken, UsageError if there is no such interface.
    """
    from dure.cluster.node.agent import own_platform

    node, own = NodeFile.read(directory), Credentials(directory)
    if not own.exist:
        raise ClusterError(
            f"{directory} lacks the node's certificate",
            "join again, with a code of `dure cluster invite`",
        )
    note_name(directory, node, own.name)  # a change of name may have been cut off
    own_platform()  # llama.cpp is tried now: the root does not wait long for facts
    if interface:
        named_device(interface, health(directory).links)
    while _answers(directory, host, port or node.port, announce, quota_bytes, interface):
        if not own.exist:
            return False
    return True


def _answers(
    directory: Path,
    host: str,
    port: int,
    announce: Callable[[str, bool], None],
    quota_bytes: int,
    interface: str,
) -> bool:
    """Answer the root under the node's present name; return whether that has changed, which ends it."""
    from dure.cluster.node.agent import MOST_BODY_BYTES, agent_app

    node, is_changed = NodeFile.read(directory), False

    def changed() -> None:
        nonlocal is_changed
        is_changed = server.should_exit = True

    with (
        listener(host, port) as listening,
        announced(NODE_SERVICE, node.name, port, {"name": node.name}) as is_announced,
    ):
        server = NodeServer(
            agent_app(directory, quota_bytes, interface, changed),
            answering_context(Credentials(directory)),
            lambda: announce(f"{node.name} of {node.cluster} at {host}:{port}", is_announced),
            MOST_BODY_BYTES,
        )
        server.run([listening])
    return is_changed
