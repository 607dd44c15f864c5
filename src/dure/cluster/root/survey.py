"""What the nodes are and how they are: asked of all at once, by the root.

Knows how a node is reached, also when its address has changed. Refuses to decide anything from it.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from dure.cluster.root.membership import Cluster, Member
from dure.cluster.trust.discovery import NODE, find
from dure.cluster.trust.https import Line, ask
from dure.cluster.trust.identity import asking_context
from dure.errors import ClusterError
from dure.hardware.health import Health, Platform

__all__ = ["NodeReport", "Nodes"]

FIND_S = 2.0
AT_ONCE = 32


@dataclass(frozen=True)
class NodeReport:
    """One node. problem: why it does not answer; platform and health are there where it does."""

    member: Member
    problem: str = ""
    platform: Platform | None = None
    health: Health | None = None


class Nodes:
    """The root's way to the nodes of its cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def survey(self, members: Sequence[Member], timeout_s: float = 5.0) -> list[NodeReport]:
        """Ask these nodes for their facts, all at once."""
        context = self._context()
        with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
            return list(threads.map(lambda m: self._report(m, context, timeout_s), members))

    def line(self, member: Member, timeout_s: float = 10.0) -> Line:
        """A connection to a node; close it."""
        address = (member.host, member.port)
        return Line(address, self._context(), member.name, timeout_s=timeout_s)

    def _context(self) -> ssl.SSLContext:
        return asking_context(self._cluster.credentials, self._cluster.revocations)

    def _report(self, member: Member, context: ssl.SSLContext, timeout_s: float) -> NodeReport:
        def facts(at: Member) -> NodeReport:
            address = (at.host, at.port)
            told = ask(address, context, at.name, "GET", "/facts", timeout_s=timeout_s)
            try:
                return NodeReport(
                    at,
                    platform=msgspec.convert(told["platform"], Platform),
                    health=msgspec.convert(told["health"], Health),
                )
            except (msgspec.ValidationError, KeyError, TypeError) as error:
                raise ClusterError(
                    f"{at.name} answers in another dure's words ({error}): install the same version "
                    "on all machines"
                ) from error

        try:
            return facts(member)
        except ClusterError as error:
            problem = str(error)
        for host, port in find(NODE, "name", member.name, FIND_S):
            moved = msgspec.structs.replace(member, host=host, port=port)
            if moved == member:
                continue
            try:
                report = facts(moved)
            except ClusterError:  # somebody says that name who cannot prove it
                continue
            self._cluster.move(member.name, host, port)
            return report
        return NodeReport(member, problem)
