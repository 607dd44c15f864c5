"""Starts a model on the cluster's machines: wait for nodes, divide, send shards, start the ranks.

Refuses to know how nodes are polled, and how ranks are started on them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import msgspec

from dure.cluster.root.distribution import Delivery, deliver
from dure.cluster.root.job_registry import JobRegistry, MachineUse
from dure.cluster.root.launch import ClusterLaunch, JobOwner
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.readiness import common_ctx, machine_of
from dure.cluster.root.restart_watch import RestartWatch
from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.software import versions
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.deploy.adapters import planned
from dure.deploy.cluster_setup import known_setup
from dure.deploy.deployment import Deployment, deployment_of_shards
from dure.deploy.gpu import RankGpu, offloaded, placed_on_gpus
from dure.deploy.learning import Learning
from dure.deploy.local import (
    cut_missing,
    fewer_layers,
    left_of,
    limits_of,
    memory_of_whole,
    start_local,
    tell_of_gpus,
    threads_of,
)
from dure.deploy.node_pool import FullNode, NodePool, full_nodes
from dure.deploy.node_sharing import NodeSharing
from dure.deploy.node_wait import NodeWait
from dure.deploy.options import RestartReason, RunOptions, node_names
from dure.deploy.rank_memories import with_options
from dure.deploy.reporter import EngineEvent, Reporter
from dure.deploy.shares import ClusterPlan, ClusterPlanner
from dure.deploy.start_timer import StartTimer
from dure.engine.ranks.mpi import MpiExecutor, MpiOptions
from dure.errors import GpuMemoryError
from dure.hardware.probe import health, platform, probe
from dure.model.cut import plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import Shard, plan_shards
from dure.places import cluster_directory, shard_directory
from dure.plan.load import main_type_of, read_types
from dure.plan.memory import rank_memory
from dure.plan.setups import Setup

__all__ = ["start_on_cluster"]

SHARD_TIMEOUT_S = 60.0  # for a node to receive a chunk


def start_on_cluster(
    model: GgufFile, options: RunOptions, reporter: Reporter, restart: RestartReason | None
) -> Deployment:
    """Start a model on the root and the nodes of its cluster, one rank each; see `start_model`.

    Nodes that do not answer are waited for, up to options.grace_s; then the model starts without them, if
    the other machines have the memory for it.
    """
    cluster = Cluster(cluster_directory())
    nodes, timer = Nodes(cluster), StartTimer()
    assert options.job is not None, "its command has registered it"
    registry = JobRegistry(cluster.directory, options.job)
    insists = any((node_names(options.nodes), options.shares, options.ranks))
    sharing = NodeSharing(
        registry,
        options.job,
        reporter,
        shares=options.share_node,
        insists=insists,
        may_go_without=restart is not None,
    )
    if restart:
        cluster.events.add("engine_ended", reason=restart.reason, silent_s=restart.silent_s)
    planner = ClusterPlanner(model, options, cluster, nodes, reporter)

    def planned(
        available: list[NodeReport], occupancy: Occupancy, is_reduced: bool
    ) -> _SingleMachine | _CutOverNodes:
        plan = planner.plan(available, occupancy, is_reduced)
        return (_CutOverNodes if plan.reports else _SingleMachine)(model, options, plan, occupancy)

    pool = NodePool(cluster, nodes, reporter, timer, sharing, may_drop_full=restart is not None)
    start = pool.choose(_node_wait(cluster, nodes, options, reporter, restart), planned)
    timer.note("choose_s")
    deployment = _on_platforms(start.run(cluster, nodes, reporter, timer), start.plan)
    cluster.events.add(
        "engine_started",
        model=model.paths[0].name,
        shares=start.plan.shares_by_name,
        left_out=dict(start.plan.left_out),
        without=[member.name for member, _ in pool.missing],
        **timer.seconds,
    )
    used = [report.member.name for report in start.plan.reports]
    known = None if insists else pool.known
    watch = RestartWatch(cluster, nodes, pool.missing, used, known, sharing.is_usable)

    def is_shared() -> bool:
        others = [*start.occupancy.others, *registry.others()]
        return any(not other.machines.keys().isdisjoint(start.uses) for other in others)

    return replace(
        deployment,
        restart_reason=watch.why,
        record=lambda event, facts: cluster.events.add(event, **facts),
        learn=Learning(cluster, main_type_of(model), start.held_bytes, is_shared).learn,
        is_shared=is_shared(),
        machines=tuple(map(shown_name, start.uses)),
        measured_setup=partial(_measured_setup, model, options, cluster, start.plan),
    )


def _measured_setup(
    model: GgufFile, options: RunOptions, cluster: Cluster, plan: ClusterPlan
) -> tuple[Setup, Sequence[float]] | None:
    machines = {ROOT_NAME: probe()}
    machines |= {report.member.name: machine_of(report) for report in plan.reports}
    known = KnownSpeeds(cluster.directory)
    setup = known_setup(known, machines, read_types(model), options.threads)
    return None if setup is None else (setup, plan.shares)


def _on_platforms(deployment: Deployment, plan: ClusterPlan) -> Deployment:
    """Return a deployment with what the machines of its plan are, the root first."""
    nodes = [report.platform for report in plan.reports if report.platform is not None]
    platforms = (platform(versions(), lambda _: ""), *nodes)
    return replace(deployment, platforms=platforms, shares=tuple(plan.shares))


def _node_wait(
    cluster: Cluster,
    nodes: Nodes,
    options: RunOptions,
    reporter: Reporter,
    restart: RestartReason | None,
) -> NodeWait:
    return NodeWait(
        cluster,
        nodes,
        options.grace_s,
        reporter,
        named=node_names(options.nodes),
        insists=options.nodes is not None or options.shares is not None,
        may_be_alone=restart is not None,
    )


class _SingleMachine:
    """The root holds the whole model. Raises ResourceError if it has too little memory."""

    def __init__(
        self, model: GgufFile, options: RunOptions, plan: ClusterPlan, occupancy: Occupancy
    ) -> None:
        self._model, self.plan, self.occupancy = model, plan, occupancy
        here = occupancy.left(ROOT_NAME, probe())
        threads = threads_of(options.threads, 1, here)
        self._options = msgspec.structs.replace(
            options,
            cluster=False,
            ranks=None,
            shares=None,
            nodes=None,
            interface=None,
            share_node=False,
            threads=threads if occupancy.holders(ROOT_NAME) else options.threads,
        )
        gpu = plan.gpus.get(ROOT_NAME)
        memory, n_ctx = memory_of_whole(model, self._options, here, gpu=gpu)
        n_bytes = memory.total_bytes(n_ctx, options.n_sequences)
        self.uses = {ROOT_NAME: MachineUse(threads, n_bytes)}

    @property
    def held_bytes(self) -> Mapping[str, float]:
        """Return nothing: there is no share to correct."""
        return {}

    def full_nodes(self, _nodes: Nodes) -> Sequence[FullNode]:
        """Return nothing: no node takes part."""
        return ()

    def run(
        self, _cluster: Cluster, _nodes: Nodes, reporter: Reporter, timer: StartTimer
    ) -> Deployment:
        """Start the model on the root."""
        deployment = start_local(self._model, self._options, reporter)
        timer.note("load_s")
        return deployment


class _CutOverNodes:
    """Each machine holds one shard. Raises ResourceError if a shard does not fit its machine."""

    def __init__(
        self, model: GgufFile, options: RunOptions, plan: ClusterPlan, occupancy: Occupancy
    ) -> None:
        self._model, self._options, self.plan, reports = model, options, plan, plan.reports
        self.occupancy = occupancy
        self._members = [report.member for report in reports]
        self._names = [ROOT_NAME, *(member.name for member in self._members)]
        self._cut = plan_cut(model, plan.shares)
        self._shards = plan_shards(model, self._cut, shard_directory())
        here, names = probe(), ["the root", *(member.name for member in self._members)]
        machines = [
            occupancy.left(name, machine)
            for name, machine in zip(self._names, [here, *map(machine_of, reports)], strict=True)
        ]
        memory = [
            rank_memory(self._cut, shard.size, machine.features)
            for shard, machine in zip(self._shards, machines, strict=True)
        ]
        self._memory = with_options(memory, model, options, self._cut)
        self._machines = list(zip(names, machines, strict=True))
        self._threads = [threads_of(options.threads, 1, machine) for machine in machines]
        self._place()

    def _place(self, part: float = 1.0) -> None:
        """Place layers on GPUs, and choose the context that fits. part: see `placed_on_gpu`."""
        options, names = self._options, [name for name, _ in self._machines]
        found = [self.plan.gpus.get(name) for name in self._names]
        ranks = [RankGpu(name, gpu) for name, gpu in zip(names, found, strict=True)]
        placed = (self._model, options, self._cut, self._shards, self._memory)
        self._gpus = placed_on_gpus(ranks, *placed, part)
        self._left = left_of(self._memory, self._gpus)
        taken = [
            (name, left, machine)
            for (name, machine), left in zip(self._machines, self._left, strict=True)
        ]
        trained = self._cut.shape.context_length
        self._n_ctx = common_ctx(options.ctx, trained, taken, options.n_sequences)

    @property
    def held_bytes(self) -> Mapping[str, float]:
        """Return the bytes of each machine's weights, by name; none if GPUs hold some.

        What is learned from these is the speed of processors.
        """
        if any(self._gpus):
            return {}
        held = zip(self._names, self._shards, strict=True)
        return {name: shard.weights_bytes for name, shard in held}

    @property
    def uses(self) -> Mapping[str, MachineUse]:
        """Return what the ranks take of each machine, by name."""
        n_ctx, n_sequences = self._n_ctx, self._options.n_sequences
        ranks = zip(self._names, self._threads, self._left, strict=True)
        return {
            name: MachineUse(threads, memory.total_bytes(n_ctx, n_sequences))
            for name, threads, memory in ranks
        }

    def full_nodes(self, nodes: Nodes) -> Sequence[FullNode]:
        """Return the nodes that have neither their shard nor disk space for it."""
        return full_nodes(nodes, list(zip(self._members, self._shards[1:], strict=True)))

    def run(
        self, cluster: Cluster, nodes: Nodes, reporter: Reporter, timer: StartTimer
    ) -> Deployment:
        """Send every machine its shard, and start the ranks."""
        placed = list(zip(self._members, self._shards[1:], strict=True))
        reporter.news(self.plan.told())
        reporter.event(EngineEvent.SENDS)
        _send_shards(self._model, nodes, placed, reporter)
        cut_missing(self._model, self._shards[:1], reporter)
        timer.note("shards_s")
        reporter.event(EngineEvent.LOADS)
        executor = self._started(cluster, placed, reporter)
        timer.note("load_s")
        tell_of_gpus([name for name, _ in self._machines], self._gpus, reporter)
        return deployment_of_shards(
            executor,
            self._shards,
            self._memory,
            lambda adapter: self._place_adapter(adapter, nodes, reporter),
            self._gpus,
        )

    def _started(
        self, cluster: Cluster, placed: Sequence[tuple[Member, Shard]], reporter: Reporter
    ) -> MpiExecutor:
        """Start the ranks, with fewer layers on GPUs if those that should fit do not."""
        part = 1.0
        while True:
            try:
                return self._executor(cluster, placed, reporter)
            except GpuMemoryError:
                if self._options.gpu_layers is not None:
                    raise
                part = fewer_layers(part)
                self._place(part)

    def _place_adapter(self, adapter: GgufFile, nodes: Nodes, reporter: Reporter) -> list[str]:
        """Send every machine its part of an adapter; return what each calls it, beside its shard."""
        shards = planned(adapter, self._cut)
        placed = list(zip(self._members, shards[1:], strict=True))
        _send_shards(adapter, nodes, placed, reporter)
        cut_missing(adapter, shards[:1], reporter)
        return [shard.path.name for shard in shards]

    def _executor(
        self, cluster: Cluster, placed: Sequence[tuple[Member, Shard]], reporter: Reporter
    ) -> MpiExecutor:
        options = self._options
        launch = ClusterLaunch(
            cluster,
            [(member, shard.name) for member, shard in placed],
            JobOwner(self.occupancy.own, options.share_node, self.occupancy.ended),
            health(shard_directory()).links,
            options.interface,
        )
        with reporter.loading(f"{len(self._shards)} shards") as loaded:
            return MpiExecutor(
                self._model.paths[0],
                [shard.path for shard in self._shards],
                self._cut,
                limits_of(self._n_ctx, self._threads[0], options, self._memory[0]),
                options=MpiOptions(wire=options.wire),
                threads=self._threads,
                kv_bytes=[rank.kv_bytes(self._n_ctx, options.n_sequences) for rank in self._memory],
                gpus=[offloaded(gpu) for gpu in self._gpus],
                launch=launch,
                progress=loaded,
            )


def _send_shards(
    model: GgufFile, nodes: Nodes, placed: Sequence[tuple[Member, Shard]], reporter: Reporter
) -> None:
    """Send every node its shard, if it lacks it."""
    with contextlib.ExitStack() as clients:
        deliveries = []
        for member, shard in placed:
            client = clients.enter_context(
                contextlib.closing(nodes.client(member, SHARD_TIMEOUT_S))
            )
            if shard.name not in client.shards().whole_names:
                deliveries.append(Delivery(shard, client))
        if not deliveries:
            return
        total = sum(delivery.shard.weights_bytes for delivery in deliveries)
        with reporter.cutting(f"{model.paths[0].name} for {len(deliveries)} nodes", total) as more:
            reported = 0

            def progress() -> None:
                nonlocal reported
                done = sum(delivery.done_bytes for delivery in deliveries)
                more(done - reported)
                reported = done

            deliver(model, deliveries, progress=progress)
