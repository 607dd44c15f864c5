"""Polls the nodes of a cluster before a model starts, and waits for missing ones.

Refuses to know models: the caller says if the nodes that answer are not enough.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.readiness import check_nodes
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.software import versions
from dure.deploy.reporter import EngineEvent, Reporter

__all__ = ["NodeWait"]

POLL_EVERY_S = 1.0


class NodeWait:
    """Waits for missing nodes, up to grace_s.

    named: poll only these; None: all. insists: with a grace_s of 0, a missing node is an error.
    may_be_alone: a cluster without nodes is no error, as when the last one was removed while a model ran.
    poll_every_s: seconds between polls.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes,
        grace_s: float,
        reporter: Reporter,
        *,
        named: Collection[str] | None = None,
        insists: bool = False,
        may_be_alone: bool = False,
        poll_every_s: float = POLL_EVERY_S,
    ) -> None:
        self._cluster, self._nodes, self._reporter = cluster, nodes, reporter
        self._named, self._insists, self._may_be_alone = named, insists, may_be_alone
        self._grace_s, self._deadline = grace_s, time.monotonic() + grace_s
        self._poll_every_s = poll_every_s
        self._has_reported = False
        self._shortage = ""  # why the nodes that answer are not enough
        self._available: list[NodeReport] = []
        reporter.event(EngineEvent.GATHERS)

    def require_more(self, reason: str) -> None:
        """Make `wait` wait until another node answers; the reason says why those so far do not suffice."""
        self._shortage = reason
        self._cluster.events.add("waiting", reason=reason)

    def wait(self) -> tuple[list[NodeReport], list[NodeReport]]:
        """Return the available and the missing nodes, after waiting for the latter.

        Raises ClusterError if a node has other software, or if a missing node is an error.
        """
        before = {report.member.name for report in self._available}
        while True:
            reports = self._nodes.survey(self._members())
            if not reports and self._may_be_alone:
                return [], []
            self._available = [report for report in reports if not report.problem]
            missing = [report for report in reports if report.problem]
            if not missing or (self._insists and not self._grace_s):
                check_nodes(reports, versions())
                return reports, []
            is_over = time.monotonic() >= self._deadline
            if self._shortage:
                is_over = {report.member.name for report in self._available} - before != set()
            if is_over:
                return self._without(missing)
            self._pause(missing)

    def _members(self) -> list[Member]:
        """Return the members to poll. Raises ClusterError for a name that is not in the cluster."""
        if self._named is None:
            return self._cluster.members
        wanted = {self._cluster.member(name).name for name in self._named}
        return [member for member in self._cluster.members if member.name in wanted]

    def _pause(self, missing: list[NodeReport]) -> None:
        names = ", ".join(report.member.name for report in missing)
        left = self._deadline - time.monotonic()
        if not self._has_reported:
            self._has_reported = True
            self._reporter.news(f"waits for {names}, {self._grace_s:g} s at most (--grace)")
        because = f", as {self._shortage}" if self._shortage else ""
        with self._reporter.doing(f"waiting for {names}{because}") as progress:
            progress(min(1.0, 1 - left / self._grace_s))
            time.sleep(self._poll_every_s if self._shortage else min(left, self._poll_every_s))

    def _without(self, missing: list[NodeReport]) -> tuple[list[NodeReport], list[NodeReport]]:
        for report in missing:
            self._cluster.events.add("left_out", node=report.member.name, reason=report.problem)
            self._reporter.news(f"goes on without a node: {report.problem}")
        if self._available:
            check_nodes(self._available, versions())
        return self._available, missing
