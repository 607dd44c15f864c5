"""Whether the nodes can run a model together: all there, the same software, enough memory.

Pure but for the survey it is given. Refuses to start anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dure.cluster.root.survey import NodeReport
from dure.errors import ClusterError, ResourceError
from dure.hardware.health import Platform
from dure.hardware.machine import Machine
from dure.plan.memory import RankMemory, choose_ctx

__all__ = ["check_nodes", "common_ctx", "machine_of"]


def check_nodes(reports: Sequence[NodeReport], versions: Mapping[str, str]) -> list[Platform]:
    """What the nodes are, where each answers and has the root's versions. Raises ClusterError."""
    if not reports:
        raise ClusterError("the cluster has no nodes: `dure cluster invite` lets machines join")
    platforms = []
    for report in reports:
        if report.platform is None:
            raise ClusterError(
                f"{report.problem}. --nodes names those to go on with; `dure cluster remove` is for one "
                "that stays away"
            )
        for name, version in versions.items():
            theirs = report.platform.versions.get(name, "none")
            if theirs != version:
                raise ClusterError(
                    f"{report.member.name} has {name} {theirs}, and the root {version}: install the "
                    "same on both"
                )
        if report.platform.problem:
            raise ClusterError(
                f"{report.member.name}: {report.platform.problem}: install dure again on it"
            )
        platforms.append(report.platform)
    return platforms


def machine_of(report: NodeReport) -> Machine:
    """A node as the planner sees it."""
    assert report.platform is not None, "checked"
    assert report.health is not None, "it comes with the platform"
    return Machine(
        report.platform.cores, report.platform.memory_bytes, report.health.available_bytes
    )


def common_ctx(
    asked: int | None,
    trained: int,
    ranks: Sequence[tuple[str, RankMemory, Machine]],
    n_sequences: int,
) -> int:
    """The context that fits on every machine, each with its name, for one rank of its own.

    Raises ResourceError that names the machine where what was asked for does not fit.
    """
    fits = []
    for name, memory, machine in ranks:
        try:
            fits.append(choose_ctx(asked, trained, [memory], machine, n_sequences))
        except ResourceError as error:
            raise ResourceError(f"{name}: {error}") from error
    return min(fits)
