"""A node's own process: it answers the root until a signal ends it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from dure.cluster.network import named_device
from dure.cluster.trust.discovery import NODE_SERVICE, announced
from dure.cluster.trust.https_server import NodeServer, listener
from dure.cluster.trust.identity import Credentials, answering_context
from dure.cluster.trust.joining import NodeFile
from dure.errors import ClusterError
from dure.hardware.probe import health

__all__ = ["forget", "run_node"]


def forget(directory: Path) -> None:
    """Delete what a node has in its directory, and the directory if nothing else is in it.

    Raises OSError.
    """
    own = Credentials(directory)
    for path in (own.key, own.certificate, own.authority, directory / "node.json"):
        path.unlink(missing_ok=True)
    for name in ("prefixes", "run", "shards"):
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    with contextlib.suppress(OSError):  # somebody keeps other things there
        directory.rmdir()


def run_node(
    directory: Path,
    host: str,
    port: int | None,
    announce: Callable[[str, bool], None],
    *,
    quota_bytes: int = 0,
    interface: str = "",
) -> None:
    """Answer the root until SIGTERM or SIGINT.

    announce: gets the address, and whether mDNS announces it too. quota_bytes, interface: as for
    `agent_app`. Raises ClusterError if this machine has not joined, ResourceError if the port is taken,
    UsageError if there is no such interface.
    """
    from dure.cluster.node.agent import MOST_BODY_BYTES, agent_app, own_platform

    node, own = NodeFile.read(directory), Credentials(directory)
    if not own.exist:
        raise ClusterError(
            f"{directory} lacks the node's certificate",
            "join again, with a code of `dure cluster invite`",
        )
    port = port or node.port
    own_platform()  # llama.cpp is tried now: the root does not wait long for facts
    if interface:
        named_device(interface, health(directory).links)
    with (
        listener(host, port) as listening,
        announced(NODE_SERVICE, node.name, port, {"name": node.name}) as is_announced,
    ):
        server = NodeServer(
            agent_app(directory, quota_bytes, interface),
            answering_context(own),
            lambda: announce(f"{node.name} of {node.cluster} at {host}:{port}", is_announced),
            MOST_BODY_BYTES,
        )
        server.run([listening])
