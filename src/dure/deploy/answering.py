"""The machines of a cluster that answer now: what is known of their speeds, and how a start would use them.

Measures what is not known. Refuses to know what a plan is for.
"""

from __future__ import annotations

from collections.abc import Sequence

from dure.cluster.job_identity import JobIdentity
from dure.cluster.root.membership import Cluster
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.speeds import KnownSpeeds, kind_of, link_speed, measure_machines
from dure.cluster.root.survey import Nodes, root_report
from dure.deploy.options import RunOptions, node_names
from dure.deploy.reporter import Reporter
from dure.deploy.shares import ClusterPlan, ClusterPlanner
from dure.hardware.health import Platform
from dure.model.gguf import GgufFile
from dure.places import shard_directory

__all__ = ["AnsweringMachines"]


class AnsweringMachines:
    """The root of a cluster and its nodes that answer, of those that options name, as they are now.

    silent: why the others do not answer, by name. Raises UsageError for a name that no node has.
    """

    def __init__(self, cluster: Cluster, options: RunOptions, reporter: Reporter) -> None:
        self._cluster, self._options, self._reporter = cluster, options, reporter
        self._nodes = Nodes(cluster)
        names = node_names(options.nodes)
        members = cluster.members if names is None else [cluster.member(name) for name in names]
        found = self._nodes.survey(members)
        self.reports = [one for one in found if one.platform is not None]
        self.silent = {one.member.name: one.problem for one in found if one.platform is None}
        self._here = root_report(shard_directory())

    @property
    def known(self) -> KnownSpeeds:
        """What was measured of them until now."""
        return KnownSpeeds(self._cluster.directory)

    @property
    def platforms(self) -> dict[str, Platform | None]:
        """What each of them is, by name, the root too."""
        return {one.member.name: one.platform for one in (self._here, *self.reports)}

    def measure(self, types: Sequence[str]) -> None:
        """Measure the speeds with these types, and the links, that are not known. Raises ClusterError."""
        known, members = self.known, [report.member for report in self.reports]
        kinds = {name: kind_of(platform) for name, platform in self.platforms.items()}
        for type_name in types:
            lacking = [name for name in kinds if known.speed(name, type_name) is None]
            if lacking:
                with self._reporter.doing(f"measuring how fast the machines read {type_name}"):
                    measure_machines(self._nodes, known, members, type_name, lacking, kinds)
        for member in members:
            if known.link(member.name) is None:
                with self._reporter.doing(f"measuring the link to {member.name}"):
                    known.keep(member.name, link=link_speed(self._nodes, member))

    def plan(self, model: GgufFile) -> ClusterPlan:
        """Return how a start would divide a model among them, if no other job ran there.

        Raises UsageError, ClusterError or ResourceError as a start would.
        """
        own = self._options.job or JobIdentity.new("plan", model.paths[0].stem)
        planner = ClusterPlanner(model, self._options, self._cluster, self._nodes, self._reporter)
        is_reduced = bool(self.silent)
        return planner.plan(self.reports, Occupancy(own, (), (), {}), is_reduced=is_reduced)
