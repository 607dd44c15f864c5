"""Whether the nodes can run a model together: all answer, with the same software and enough memory.

Pure. Refuses to start anything.
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
    """Return what the nodes are. Raises ClusterError if one is silent, or has not the root's versions."""
    if not reports:
        raise ClusterError("the cluster has no nodes", "`dure cluster invite` lets machines join")
    return [_ready_platform(report, versions) for report in reports]


def _ready_platform(report: NodeReport, versions: Mapping[str, str]) -> Platform:
    platform = report.platform
    if platform is None:
        raise ClusterError(
            f"{report.problem}. --nodes names those to go on with; `dure cluster remove` is for one "
            "that stays away"
        )
    for name, version in versions.items():
        theirs = platform.versions.get(name, "none")
        if theirs != version:
            raise ClusterError(
                f"{report.member.name} has {name} {theirs}, and the root {version}",
                "install the same on both",
            )
    if platform.problem:
        raise ClusterError(f"{report.member.name}: {platform.problem}", "install dure again on it")
    return platform


def machine_of(report: NodeReport) -> Machine:
    """Return a node as the planner takes it."""
    assert report.platform is not None, "checked"
    assert report.health is not None, "it comes with the platform"
    platform = report.platform
    return Machine(
        platform.cores,
        platform.memory_bytes,
        report.health.available_bytes,
        platform.features,
        platform.cpu_limit,
        platform.memory_limit,
    )


def common_ctx(
    asked: int | None,
    trained: int,
    ranks: Sequence[tuple[str, RankMemory, Machine]],
    n_sequences: int,
) -> int:
    """Return the context that fits on every machine, each with its name and one rank.

    Raises ResourceError that names the machine on which what was asked for does not fit.
    """
    fits = []
    for name, memory, machine in ranks:
        try:
            fits.append(choose_ctx(asked, trained, [memory], machine, n_sequences))
        except ResourceError as error:
            raise ResourceError(f"{name}: {error.problem}", error.cure) from error
    return min(fits)
