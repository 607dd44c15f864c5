"""The nodes of a cluster, before a model starts on them: asked, and those that are missing waited for.

Refuses to know models: it is told when what is there is too little.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.readiness import check_nodes
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.software import versions
from dure.deploy.start import Listener
from dure.worker.lifecycle import Happening

__all__ = ["Gathering"]

LOOK_EVERY_S = 1.0


class Gathering:
    """Waits for nodes that are missing, up to grace_s.

    named: these are asked, and no others; None: all. insists: without one that is missing it does not go
    on where grace_s is 0. may_be_alone: a cluster without nodes is no error, as when the last was removed
    from a model that runs.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes,
        grace_s: float,
        listener: Listener,
        *,
        named: Collection[str] | None = None,
        insists: bool = False,
        may_be_alone: bool = False,
    ) -> None:
        self._cluster, self._nodes, self._listener = cluster, nodes, listener
        self._named, self._insists, self._may_be_alone = named, insists, may_be_alone
        self._grace_s, self._give_up = grace_s, time.monotonic() + grace_s
        self._is_told = False
        self._too_little = ""  # why those that were there are not enough
        self._there: list[NodeReport] = []
        listener.happened(Happening.GATHERS)

    def insist(self, reason: str) -> None:
        """Those that were there are too little, for this reason: wait until there are others."""
        self._too_little = reason
        self._cluster.events.add("waiting", reason=reason)

    def wait(self) -> tuple[list[NodeReport], list[NodeReport]]:
        """The nodes that are ready, and those that are not, once they have been waited for.

        Raises ClusterError where one has other software, or where none is to be waited for.
        """
        before = {report.member.name for report in self._there}
        while True:
            reports = self._nodes.survey(self._members())
            if not reports and self._may_be_alone:
                return [], []
            self._there = [report for report in reports if not report.problem]
            missing = [report for report in reports if report.problem]
            if not missing or (self._insists and not self._grace_s):
                check_nodes(reports, versions())
                return reports, []
            is_over = time.monotonic() >= self._give_up
            if self._too_little:
                is_over = {report.member.name for report in self._there} - before != set()
            if is_over:
                return self._without(missing)
            self._pause(missing)

    def _members(self) -> list[Member]:
        """Raises ClusterError for a name that is none of the cluster's."""
        if self._named is None:
            return self._cluster.members
        wanted = {self._cluster.member(name).name for name in self._named}
        return [member for member in self._cluster.members if member.name in wanted]

    def _pause(self, missing: list[NodeReport]) -> None:
        names = ", ".join(report.member.name for report in missing)
        left = self._give_up - time.monotonic()
        if not self._is_told:
            self._is_told = True
            self._listener.news(f"waits for {names}, {self._grace_s:g} s at most (--grace)")
        because = f", as {self._too_little}" if self._too_little else ""
        with self._listener.doing(f"waiting for {names}{because}") as progress:
            progress(min(1.0, 1 - left / self._grace_s))
            time.sleep(LOOK_EVERY_S if self._too_little else min(left, LOOK_EVERY_S))

    def _without(self, missing: list[NodeReport]) -> tuple[list[NodeReport], list[NodeReport]]:
        for report in missing:
            self._cluster.events.add("left_out", node=report.member.name, reason=report.problem)
            self._listener.news(f"goes on without a node: {report.problem}")
        if self._there:
            check_nodes(self._there, versions())
        return self._there, missing
