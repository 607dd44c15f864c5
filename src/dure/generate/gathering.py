"""The nodes of a cluster, before a model starts on them: asked, and those that are missing waited for.

Refuses to know models: it is told when what is there is too little.
"""

from __future__ import annotations

import time

from dure.cluster.agent import versions
from dure.cluster.membership import Cluster
from dure.cluster.readiness import check_nodes
from dure.cluster.survey import NodeReport, Nodes
from dure.generate.lifecycle import Happening
from dure.generate.opening import Listener

__all__ = ["Gathering"]

LOOK_EVERY_S = 1.0


class Gathering:
    """Waits for nodes: for those that are missing up to grace_s; 0 takes their absence for an error."""

    def __init__(self, cluster: Cluster, nodes: Nodes, grace_s: float, listener: Listener) -> None:
        self._cluster, self._nodes, self._listener = cluster, nodes, listener
        self._grace_s, self._give_up = grace_s, time.monotonic() + grace_s
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
            reports = self._nodes.survey(self._cluster.members)
            self._there = [report for report in reports if not report.problem]
            missing = [report for report in reports if report.problem]
            if not missing or not self._grace_s:
                check_nodes(reports, versions())
                return reports, []
            is_over = time.monotonic() >= self._give_up
            if self._too_little:
                is_over = {report.member.name for report in self._there} - before != set()
            if is_over:
                return self._without(missing)
            self._pause(missing)

    def _pause(self, missing: list[NodeReport]) -> None:
        names = ", ".join(report.member.name for report in missing)
        left = self._give_up - time.monotonic()
        because = f", as {self._too_little}" if self._too_little else ""
        with self._listener.doing(f"waiting for {names}{because}") as progress:
            progress(min(1.0, 1 - left / self._grace_s))
            time.sleep(LOOK_EVERY_S if self._too_little else min(left, LOOK_EVERY_S))

    def _without(self, missing: list[NodeReport]) -> tuple[list[NodeReport], list[NodeReport]]:
        for report in missing:
            self._cluster.events.add("left_out", node=report.member.name, reason=report.problem)
            self._listener.warn(f"goes on without a node: {report.problem}")
        if self._there:
            check_nodes(self._there, versions())
        return self._there, missing
