"""The use of a cluster's machines by one job alone, as for measurements. Refuses to know what it does.

A job that has not chosen its machines yet may be about to take one of them, so it counts as their user.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dure.cluster.job_identity import JobIdentity, busy_error
from dure.cluster.root.job_registry import JobRegistry, MachineUse
from dure.cluster.root.membership import Cluster
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.survey import NodeReport
from dure.cluster.trust.identity import shown_name

__all__ = ["sole_use"]


@contextmanager
def sole_use(cluster: Cluster, own: JobIdentity, reports: Sequence[NodeReport]) -> Iterator[None]:
    """Claim all these machines for a job until the block ends. Raises ClusterError if another uses one."""
    registry = JobRegistry(cluster.directory, own)
    running = {report.member.name: report.jobs for report in reports}
    uses = {
        report.member.name: MachineUse(report.platform.cores if report.platform else 1, 0)
        for report in reports
    }
    with registry.registered():
        while True:
            occupancy = Occupancy(own, (), registry.others(), running)
            undecided = [other.job for other in occupancy.others if not other.machines]
            holders = {
                shown_name(name): held
                for name in uses
                if (held := [*occupancy.holders(name), *undecided])
            }
            if holders:
                raise busy_error(holders, may_share=False)
            if registry.claim(uses, ()):
                break
        yield
