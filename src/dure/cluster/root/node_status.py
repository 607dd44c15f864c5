"""How a cluster is, as data: each node's status, and the last start of a model on it. Pure.

Knows what of a survey is shown, in which fields. Refuses to ask anything and to print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dure.cluster.root.survey import NodeReport
from dure.hardware.health import Health, Platform

__all__ = ["ClusterStatus", "NodeStatus", "cluster_status"]


class NodeStatus(msgspec.Struct, frozen=True):
    """How a node is. problem: why it does not answer; if it does, platform and health are set.

    joined: when, since 1970.
    """

    name: str
    host: str
    port: int
    joined: float
    answers: bool
    problem: str | None
    platform: Platform | None
    health: Health | None

    @classmethod
    def of(cls, report: NodeReport) -> NodeStatus:
        """Return the status that a report tells of."""
        member = report.member
        return cls(
            member.name,
            member.host,
            member.port,
            member.joined,
            not report.problem,
            report.problem or None,
            report.platform,
            report.health,
        )


class ClusterStatus(msgspec.Struct, frozen=True):
    """How a cluster is. last_start: the event of the last start of a model; None if there was none."""

    cluster: str
    nodes: list[NodeStatus]
    last_start: dict[str, Any] | None

    @property
    def shares(self) -> dict[str, float]:
        """Each machine's share of the last start, by name."""
        return dict((self.last_start or {}).get("shares", {}))

    @property
    def left_out(self) -> dict[str, str]:
        """Why nodes took no part in the last start, by name."""
        return dict((self.last_start or {}).get("left_out", {}))


def cluster_status(
    name: str, reports: Sequence[NodeReport], events: Iterable[dict[str, Any]]
) -> ClusterStatus:
    """Return the status of a cluster from a survey of its nodes, and its events, oldest first."""
    last_start = None
    for event in events:
        if event.get("event") == "engine_started":
            last_start = event
    return ClusterStatus(name, [NodeStatus.of(report) for report in reports], last_start)
