"""From a model file to an executor on the cluster's machines: look, plan, send shards, start.

The cluster's part of `opening`. Refuses to know how nodes are asked, and how ranks are started there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from dure.cluster.agent import versions
from dure.cluster.distribution import Delivery, deliver, whole_shards
from dure.cluster.launch import ClusterLaunch
from dure.cluster.membership import Cluster, Member
from dure.cluster.membership import cluster_directory as home_of_cluster
from dure.cluster.readiness import check_nodes, common_ctx, machine_of
from dure.cluster.survey import Nodes
from dure.engine.mpi import MpiExecutor, MpiOptions
from dure.errors import UsageError
from dure.generate.opening import (
    Listener,
    Opened,
    Wishes,
    limits_of,
    opened_many,
    parse_shares,
    rank_memory,
    shard_directory,
    threads_of,
)
from dure.hardware.probe import health, probe
from dure.model.cut import plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import Shard, cut_model, plan_shards

__all__ = ["start_on_cluster"]

SHARD_TIMEOUT_S = 60.0  # for a node to take a chunk


def start_on_cluster(model: GgufFile, wishes: Wishes, listener: Listener) -> Opened:
    """Start a model on the root and all nodes of its cluster, one rank each; as `open_executor`."""
    cluster = Cluster(home_of_cluster())
    nodes = Nodes(cluster)
    reports = nodes.survey(cluster.members)
    platforms = check_nodes(reports, versions())
    n_ranks = 1 + len(reports)
    if wishes.ranks not in {None, n_ranks}:
        raise UsageError(
            f"--ranks {wishes.ranks}: the cluster has {n_ranks} machines, with a rank on each"
        )
    plan = plan_cut(model, parse_shares(wishes.shares, n_ranks))
    shards = plan_shards(model, plan, shard_directory())
    memory = [rank_memory(plan, shard) for shard in shards]
    here, names = probe(), ["the root", *(report.member.name for report in reports)]
    machines = [here, *map(machine_of, reports)]
    ranks = list(zip(names, memory, machines, strict=True))
    n_ctx = common_ctx(wishes.ctx, plan.shape.context_length, ranks, wishes.parallel)
    members = [report.member for report in reports]
    _bring_shards(model, nodes, list(zip(members, shards[1:], strict=True)), listener)
    with listener.cutting(model.paths[0].name, model.size_bytes) as progress:
        cut_model(model, shards[:1], progress=progress)
    threads = [threads_of(wishes.threads, 1, here)]
    threads += [wishes.threads or platform.cores for platform in platforms]
    with listener.loading(f"{n_ranks} shards") as loaded:
        executor = MpiExecutor(
            model.paths[0],
            [shard.path for shard in shards],
            plan,
            limits_of(n_ctx, threads[0], wishes),
            options=MpiOptions(wire=wishes.sync),
            threads=threads,
            kv_bytes=[rank.kv_bytes(n_ctx, wishes.parallel) for rank in memory],
            launch=ClusterLaunch(
                cluster,
                [(member, s.name) for member, s in zip(members, shards[1:], strict=True)],
                health(shard_directory()).links,
            ),
            progress=loaded,
        )
    return opened_many(executor, shards, memory)


def _bring_shards(
    model: GgufFile, nodes: Nodes, wanted: Sequence[tuple[Member, Shard]], listener: Listener
) -> None:
    """Send every node the shard that it lacks; nothing where all are there."""
    with contextlib.ExitStack() as lines:
        deliveries = []
        for member, shard in wanted:
            line = nodes.line(member, SHARD_TIMEOUT_S)
            lines.callback(line.close)
            if shard.name not in whole_shards(line):
                deliveries.append(Delivery(shard, member.name, line))
        total = sum(delivery.shard.weights_bytes for delivery in deliveries)
        with listener.cutting(f"{model.paths[0].name} for {len(deliveries)} nodes", total) as told:
            seen = 0

            def progress() -> None:
                nonlocal seen
                done = sum(delivery.done_bytes for delivery in deliveries)
                told(done - seen)
                seen = done

            deliver(model, deliveries, progress=progress)
