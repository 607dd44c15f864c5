"""What the nodes are and how they are: asked of all at once, by the root.

Knows how a node is reached, also after its address has changed. Refuses to decide anything from the answer.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dure.cluster.node_api import NodeClient, NodeJob
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.trust.connection import NodeConnection
from dure.cluster.trust.identity import ROOT_NAME, asking_context
from dure.errors import ClusterError
from dure.hardware.health import Health, Platform
from dure.hardware.probe import health, platform

__all__ = ["NodeReport", "Nodes", "root_report"]

FIND_S = 2.0
AT_ONCE = 32


@dataclass(frozen=True)
class NodeReport:
    """What one node answered. problem: why it does not answer; if it does, platform and health are set.

    jobs: whose ranks run on it.
    """

    member: Member
    problem: str = ""
    platform: Platform | None = None
    health: Health | None = None
    jobs: tuple[NodeJob, ...] = ()


def root_report(directory: Path) -> NodeReport:
    """Return a report of this machine, the root, as the nodes have one.

    directory: on the disk whose room matters.
    """
    here = Member(ROOT_NAME, "", 0, 0, 0.0)
    return NodeReport(here, platform=platform({}, lambda _: ""), health=health(directory))


class Nodes:
    """Reach the nodes of a cluster from its root."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def survey(self, members: Sequence[Member], timeout_s: float = 5.0) -> list[NodeReport]:
        """Ask these nodes for their facts, all at once."""
        context = self._context()
        with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
            return list(threads.map(lambda m: self._report(m, context, timeout_s), members))

    def client(self, member: Member, timeout_s: float = 10.0) -> NodeClient:
        """Return a client that asks a node; close it."""
        return _client(member, self._context(), timeout_s)

    def _context(self) -> ssl.SSLContext:
        return asking_context(self._cluster.credentials, self._cluster.revocations)

    def _report(self, member: Member, context: ssl.SSLContext, timeout_s: float) -> NodeReport:
        try:
            return _facts_of(member, context, timeout_s)
        except ClusterError as error:
            return self._moved(member, context, timeout_s) or NodeReport(member, str(error))

    def _moved(
        self, member: Member, context: ssl.SSLContext, timeout_s: float
    ) -> NodeReport | None:
        """Look for a node at another address, and remember that; None if it is nowhere."""

        # Seldom needed, and it takes time to import: an answer waits for a restart.
        from dure.cluster.trust.discovery import NODE_SERVICE, Address, found

        def proven(address: Address) -> NodeReport | None:
            moved = msgspec.structs.replace(member, host=address[0], port=address[1])
            if moved == member:
                return None
            try:
                return _facts_of(moved, context, timeout_s)
            except (
                ClusterError
            ):  # nobody is there, or somebody who says that name and cannot prove it
                return None

        report = found(NODE_SERVICE, "name", member.name, FIND_S, proven)
        if report is not None:
            self._cluster.move(member.name, report.member.host, report.member.port)
        return report


def _client(member: Member, context: ssl.SSLContext, timeout_s: float) -> NodeClient:
    address = (member.host, member.port)
    return NodeClient(NodeConnection(address, context, member.name, timeout_s=timeout_s))


def _facts_of(member: Member, context: ssl.SSLContext, timeout_s: float) -> NodeReport:
    """Ask a node for its facts. Raises ClusterError."""
    with closing(_client(member, context, timeout_s)) as client:
        facts = client.facts()
    return NodeReport(member, platform=facts.platform, health=facts.health, jobs=tuple(facts.jobs))
