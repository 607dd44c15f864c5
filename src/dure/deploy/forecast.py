"""What each machine of a cluster would hold of a model, and whether it fits. Refuses to start anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dure.cluster.job_identity import JobIdentity, busy_error
from dure.cluster.root.job_registry import JobRegistry
from dure.cluster.root.membership import Cluster
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.readiness import machine_of
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.deploy.gpu import RankGpu, placed_on_gpu, placed_on_gpus, told_of_gpu
from dure.deploy.local import left_of
from dure.deploy.node_pool import full_nodes
from dure.deploy.node_sharing import NodeSharing
from dure.deploy.options import RunOptions
from dure.deploy.reporter import SilentReporter
from dure.deploy.shares import ClusterPlan, ClusterPlanner
from dure.errors import DureError, ResourceError
from dure.hardware.machine import Machine
from dure.hardware.probe import probe
from dure.model.cut import plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import Shard, plan_shards, sized_shards
from dure.places import shard_directory
from dure.plan.gpu_layers import GpuLayers
from dure.plan.memory import DEFAULT_CTX, RankMemory, rank_memory, whole_memory

__all__ = ["Forecast", "MachineForecast", "forecast"]


@dataclass(frozen=True)
class MachineForecast:
    """One machine's part. memory_bytes: of its process, with its contexts. free_bytes: there is now.

    fits: into its memory. disk: why its shard does not fit on its disk; "" if it does. gpu: which of its
    layers would lie there, in words; "" if none.
    """

    name: str
    share: float
    weights_bytes: int
    memory_bytes: int
    free_bytes: int
    fits: bool
    disk: str = ""
    gpu: str = ""


@dataclass
class Forecast:
    """A model on a cluster.

    problem: why it cannot run there; there are no machines then. left_out: why machines take no part, by
    name. guessed: machines whose speed or link was not measured.
    """

    machines: tuple[MachineForecast, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    problem: str = ""


def forecast(model: GgufFile, options: RunOptions, cluster: Cluster) -> Forecast:
    """Return how a start with these options would divide a model now, without busy nodes as it would."""
    found = Forecast()
    try:
        _fill(found, model, options, cluster)
    except DureError as error:
        found.problem = str(error)
    return found


def _fill(found: Forecast, model: GgufFile, options: RunOptions, cluster: Cluster) -> None:
    """Note what is found, one after the other. Raises DureError if a start would."""
    nodes, own = Nodes(cluster), JobIdentity.new("show", model.paths[0].stem)
    reports, reporter = nodes.survey(cluster.members), SilentReporter()
    found.left_out = {one.member.name: one.problem for one in reports if one.platform is None}
    there = [one for one in reports if one.platform is not None]
    registry = JobRegistry(cluster.directory, own)
    sharing = NodeSharing(
        registry, own, reporter, shares=False, insists=False, may_go_without=False
    )
    occupancy = sharing.occupancy(there)
    busy = sharing.busy(there, occupancy)
    found.left_out |= {one.member.name: _use(one, occupancy) for one in busy}
    usable = [one for one in there if one not in busy]
    planner = ClusterPlanner(model, options, cluster, nodes, reporter, may_measure=False)
    try:
        plan = planner.plan(usable, occupancy, is_reduced=bool(found.left_out))
    except ResourceError as error:
        if busy:
            raise sharing.lacks(busy, occupancy) from error
        raise
    found.left_out |= plan.left_out
    found.guessed = plan.guessed
    found.machines = _machines(model, options, plan, occupancy, nodes)


def _use(report: NodeReport, occupancy: Occupancy) -> str:
    name = report.member.name
    return str(busy_error({name: occupancy.holders(name)}))


def _machines(
    model: GgufFile, options: RunOptions, plan: ClusterPlan, occupancy: Occupancy, nodes: Nodes
) -> tuple[MachineForecast, ...]:
    there = {ROOT_NAME: probe()}
    there |= {report.member.name: machine_of(report) for report in plan.reports}
    free = {name: occupancy.left(name, machine) for name, machine in there.items()}
    ranks, trained, shards, gpus = _ranks(model, options, plan, list(free.values()))
    placed = zip([report.member for report in plan.reports], shards[1:], strict=True)
    disks = {full.member.name: str(full.lack) for full in full_nodes(nodes, list(placed))}
    n_ctx, n = options.ctx or min(DEFAULT_CTX, trained), options.n_sequences
    return tuple(
        MachineForecast(
            name,
            share,
            rank.weights_bytes,
            taken := rank.total_bytes(n_ctx, n),
            free[name].available_bytes,
            taken <= free[name].available_bytes,
            disks.get(name, ""),
            told_of_gpu(gpu) if gpu else "",
        )
        for (name, share), rank, gpu in zip(plan.shares_by_name.items(), ranks, gpus, strict=True)
    )


def _ranks(
    model: GgufFile, options: RunOptions, plan: ClusterPlan, machines: list[Machine]
) -> tuple[list[RankMemory], int, Sequence[Shard], Sequence[GpuLayers | None]]:
    """Return what each machine's rank takes of its own memory, the context that the model was trained for,
    the shards, and which layers lie on GPUs.

    Shards of a model that is not here have no names, since a node has none of them.
    """
    if not plan.reports:
        memory, trained = whole_memory(model, machines[0].features)
        n_ctx, own = options.ctx or min(DEFAULT_CTX, trained), plan.gpus.get(ROOT_NAME)
        gpu = placed_on_gpu(own, model, options, memory, n_ctx)
        return left_of([memory], [gpu]), trained, (), [gpu]
    cut = plan_cut(model, plan.shares)
    is_here = model.paths[0].exists()
    shards = plan_shards(model, cut, shard_directory()) if is_here else sized_shards(model, cut)
    ranks = [
        rank_memory(cut, shard.size, machine.features)
        for shard, machine in zip(shards, machines, strict=True)
    ]
    named = [RankGpu(shown_name(name), plan.gpus.get(name)) for name in plan.shares_by_name]
    gpus = placed_on_gpus(named, model, options, cut, shards, ranks)
    return left_of(ranks, gpus), cut.shape.context_length, shards, gpus
