"""What each machine of a cluster would hold of a model, and whether it fits. Refuses to start anything."""

from __future__ import annotations

from dataclasses import dataclass, field

from dure.cluster.job_identity import JobIdentity
from dure.cluster.root.job_registry import JobRegistry
from dure.cluster.root.membership import Cluster
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.readiness import machine_of
from dure.cluster.root.survey import Nodes
from dure.cluster.trust.identity import ROOT_NAME
from dure.deploy.node_sharing import NodeSharing
from dure.deploy.options import RunOptions
from dure.deploy.reporter import SilentReporter
from dure.deploy.shares import ClusterPlan, ClusterPlanner
from dure.errors import DureError
from dure.hardware.machine import Machine
from dure.hardware.probe import probe
from dure.model.cut import plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import sized_shards
from dure.plan.memory import DEFAULT_CTX, RankMemory, rank_memory, whole_memory

__all__ = ["Forecast", "MachineForecast", "forecast"]


@dataclass(frozen=True)
class MachineForecast:
    """One machine's part. memory_bytes: of its process, with its contexts. free_bytes: there is now."""

    name: str
    share: float
    weights_bytes: int
    memory_bytes: int
    free_bytes: int
    fits: bool


@dataclass(frozen=True)
class Forecast:
    """A model on a cluster.

    problem: why it cannot run there; there are no machines then. left_out: why machines take no part, by
    name. guessed: machines whose speed was not measured.
    """

    machines: tuple[MachineForecast, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    problem: str = ""


def forecast(model: GgufFile, options: RunOptions, cluster: Cluster) -> Forecast:
    """Return how a start with these options would divide a model now, beside the jobs that run."""
    nodes, own = Nodes(cluster), JobIdentity.new("show", model.paths[0].stem)
    reports = nodes.survey(cluster.members)
    silent = {one.member.name: one.problem for one in reports if one.platform is None}
    there = [one for one in reports if one.platform is not None]
    registry, reporter = JobRegistry(cluster.directory, own), SilentReporter()
    sharing = NodeSharing(registry, own, reporter, shares=True, insists=False, may_go_without=True)
    occupancy = sharing.occupancy(there)
    planner = ClusterPlanner(model, options, cluster, nodes, reporter, may_measure=False)
    try:
        plan = planner.plan(there, occupancy, is_reduced=bool(silent))
        machines = _machines(model, options, plan, occupancy)
    except DureError as error:
        return Forecast((), silent, tuple(planner.guessed), str(error))
    return Forecast(machines, {**silent, **plan.left_out}, tuple(planner.guessed))


def _machines(
    model: GgufFile, options: RunOptions, plan: ClusterPlan, occupancy: Occupancy
) -> tuple[MachineForecast, ...]:
    there = {ROOT_NAME: probe()}
    there |= {report.member.name: machine_of(report) for report in plan.reports}
    free = {name: occupancy.left(name, machine) for name, machine in there.items()}
    ranks, trained = _ranks(model, plan, list(free.values()))
    n_ctx, n = options.ctx or min(DEFAULT_CTX, trained), options.n_sequences
    return tuple(
        MachineForecast(
            name,
            share,
            rank.weights_bytes,
            taken := rank.total_bytes(n_ctx, n),
            free[name].available_bytes,
            taken <= free[name].available_bytes,
        )
        for (name, share), rank in zip(plan.shares_by_name.items(), ranks, strict=True)
    )


def _ranks(
    model: GgufFile, plan: ClusterPlan, machines: list[Machine]
) -> tuple[list[RankMemory], int]:
    """Return what each machine's rank takes, and the context that the model was trained for."""
    if not plan.reports:
        memory, trained = whole_memory(model, machines[0].features)
        return [memory], trained
    cut = plan_cut(model, plan.shares)
    ranks = [
        rank_memory(cut, shard, machine.features)
        for shard, machine in zip(sized_shards(model, cut), machines, strict=True)
    ]
    return ranks, cut.shape.context_length
