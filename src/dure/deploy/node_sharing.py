"""Decides which nodes a start may use while other jobs run on some of them.

Knows what the user said about sharing. Refuses to know how a model is divided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dure.cluster.job_identity import JobIdentity, busy_error
from dure.cluster.node_api import NodeJob
from dure.cluster.root.job_registry import JobRegistry, MachineUse
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.survey import NodeReport
from dure.cluster.trust.identity import ROOT_NAME
from dure.deploy.reporter import Reporter
from dure.errors import ClusterError
from dure.hardware.probe import memory_of

__all__ = ["NodeSharing"]


class NodeSharing:
    """Separates nodes that are free from those that other jobs use.

    shares: the user agreed to run beside others. insists: a busy node is an error; else it is one only if
    no node is free. may_go_without: it never is, as when the engine starts again.
    """

    def __init__(
        self,
        registry: JobRegistry,
        own: JobIdentity,
        reporter: Reporter,
        *,
        shares: bool,
        insists: bool,
        may_go_without: bool,
    ) -> None:
        self._registry, self._own, self._reporter = registry, own, reporter
        self._shares, self._insists, self._may_go_without = shares, insists, may_go_without
        self._told: set[str] = set()  # nodes

    def occupancy(self, reports: Sequence[NodeReport]) -> Occupancy:
        """Return who uses these nodes, and the root, now."""
        others = self._registry.others()
        running: dict[str, Sequence[NodeJob]] = {r.member.name: r.jobs for r in reports}
        running[ROOT_NAME] = [
            NodeJob(other.job, use.threads, memory_of(other.job.pid))
            for other in others
            if (use := other.machines.get(ROOT_NAME))
        ]
        return Occupancy(self._own, self._registry.claimed().keys(), others, running)

    def is_usable(self, report: NodeReport) -> bool:
        """Return whether this job may use a node now."""
        return self._shares or self.occupancy([report]).is_free(report.member.name)

    def busy(self, reports: Sequence[NodeReport], occupancy: Occupancy) -> list[NodeReport]:
        """Return the nodes that this start must leave out. Raises ClusterError if it cannot do that."""
        names = [report.member.name for report in reports]
        if self._shares:
            return []
        holders = {n: occupancy.holders(n) for n in names if not occupancy.is_free(n)}
        is_refused = self._insists or len(holders) == len(names)
        if holders and is_refused and not self._may_go_without:
            raise busy_error(holders)
        self._tell(holders)
        return [report for report in reports if report.member.name in holders]

    def lacks(self, busy: Sequence[NodeReport], occupancy: Occupancy) -> ClusterError:
        """Return the error of a model that does not fit without busy nodes."""
        return busy_error({r.member.name: occupancy.holders(r.member.name) for r in busy})

    def claim(
        self, uses: Mapping[str, MachineUse], missing: Collection[str], occupancy: Occupancy
    ) -> bool:
        """Claim the machines of a start, and go on holding those that are missing now.

        Returns False if another job has come to one of them since.
        """
        before = self._registry.claimed()
        held = {name: before[name] for name in missing if name in before}
        return self._registry.claim({**held, **uses}, occupancy.known)

    def _tell(self, holders: Mapping[str, Sequence[JobIdentity]]) -> None:
        news = {name: jobs for name, jobs in holders.items() if name not in self._told}
        if news:
            self._told |= news.keys()
            self._reporter.news(f"goes on without busy nodes: {busy_error(news)}")
