"""How a cluster is, as data: each node's status, and the last start of a model on it. Pure.

Knows what of a survey is shown, in which fields. Refuses to ask anything and to print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dure.cluster.job_identity import JobIdentity
from dure.cluster.root.job_registry import Registration
from dure.cluster.root.speeds import TypeSpeed
from dure.cluster.root.survey import NodeReport
from dure.hardware.health import Health, Platform

__all__ = ["ClusterStatus", "NodeStatus", "cluster_status"]


class NodeStatus(msgspec.Struct, frozen=True):
    """How a node is. problem: why it does not answer; if it does, platform and health are set.

    joined: when, since 1970. jobs: which commands use it, the oldest first.
    """

    name: str
    host: str
    port: int
    joined: float
    answers: bool
    problem: str | None
    platform: Platform | None
    health: Health | None
    jobs: list[JobIdentity]

    @classmethod
    def of(cls, report: NodeReport, registered: Sequence[Registration] = ()) -> NodeStatus:
        """Return the status that a report tells of, with jobs that have claimed the node for later."""
        member = report.member
        jobs = {one.job.id: one.job for one in report.jobs}
        jobs |= {one.job.id: one.job for one in registered if member.name in one.machines}
        return cls(
            member.name,
            member.host,
            member.port,
            member.joined,
            not report.problem,
            report.problem or None,
            report.platform,
            report.health,
            sorted(jobs.values(), key=lambda job: job.since),
        )


class ClusterStatus(msgspec.Struct, frozen=True):
    """How a cluster is.

    last_start: the event of the last start of a model; None if there was none. speeds: what was measured of
    each machine, the root too, by name and type of weights.
    """

    cluster: str
    nodes: list[NodeStatus]
    last_start: dict[str, Any] | None
    speeds: dict[str, dict[str, TypeSpeed]]

    @property
    def shares(self) -> dict[str, float]:
        """Each machine's share of the last start, by name."""
        return dict((self.last_start or {}).get("shares", {}))

    @property
    def left_out(self) -> dict[str, str]:
        """Why nodes took no part in the last start, by name."""
        return dict((self.last_start or {}).get("left_out", {}))


def cluster_status(
    name: str,
    reports: Sequence[NodeReport],
    registered: Sequence[Registration],
    events: Iterable[dict[str, Any]],
    speeds: Mapping[str, dict[str, TypeSpeed]],
) -> ClusterStatus:
    """Return the status of a cluster from a survey of its nodes, its jobs, and its events, oldest first."""
    last_start = None
    for event in events:
        if event.get("event") == "engine_started":
            last_start = event
    statuses = [NodeStatus.of(report, registered) for report in reports]
    return ClusterStatus(name, statuses, last_start, dict(speeds))
