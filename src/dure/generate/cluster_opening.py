"""From a model file to an executor on the cluster's machines: look, plan, send shards, start.

The cluster's part of `opening`. Refuses to know how nodes are asked, and how ranks are started there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace

from dure.cluster.agent import versions
from dure.cluster.distribution import Delivery, deliver, whole_shards
from dure.cluster.launch import ClusterLaunch
from dure.cluster.membership import Cluster, Member
from dure.cluster.membership import cluster_directory as home_of_cluster
from dure.cluster.readiness import check_nodes, common_ctx, machine_of
from dure.cluster.returning import Returning
from dure.cluster.survey import NodeReport, Nodes
from dure.engine.mpi import MpiExecutor, MpiOptions
from dure.errors import UsageError
from dure.generate.opening import (
    Listener,
    Opened,
    Wishes,
    limits_of,
    open_executor,
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
LOOK_EVERY_S = 1.0  # for nodes that are waited for


def start_on_cluster(model: GgufFile, wishes: Wishes, listener: Listener) -> Opened:
    """Start a model on the root and the nodes of its cluster, one rank each; as `open_executor`.

    A node that does not answer is waited for, wishes.grace_s; then it goes on without.
    """
    cluster = Cluster(home_of_cluster())
    nodes, clock = Nodes(cluster), _Clock()
    if wishes.ended:
        cluster.events.add("engine_ended", reason=wishes.ended)
    there, missing = _gather(cluster, nodes, wishes, listener)
    clock.note("gather_s")
    returning = Returning(nodes, [report.member for report in missing])
    if not there:
        alone = replace(wishes, cluster=False, ranks=None, shares=None)
        opened = open_executor(model, alone, listener)
    else:
        opened = _Placement(model, wishes, there, bool(missing)).open(
            cluster, nodes, listener, clock
        )
    cluster.events.add(
        "engine_started",
        nodes=[report.member.name for report in there],
        without=[report.member.name for report in missing],
        **clock.seconds,
    )
    return replace(opened, who_is_back=returning.who)


class _Clock:
    """What each part of a start took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def note(self, part: str) -> None:
        """A part has ended."""
        now = time.monotonic()
        self.seconds[part], self._last = round(now - self._last, 2), now


def _gather(
    cluster: Cluster, nodes: Nodes, wishes: Wishes, listener: Listener
) -> tuple[list[NodeReport], list[NodeReport]]:
    """The nodes that are ready, and those that are not, once they have been waited for."""
    give_up = time.monotonic() + wishes.grace_s
    reports = nodes.survey(cluster.members)
    while missing := [report for report in reports if report.problem]:
        left = give_up - time.monotonic()
        if left <= 0:
            break
        names = ", ".join(report.member.name for report in missing)
        with listener.loading(f"waiting for {names}") as progress:
            progress(1 - left / wishes.grace_s)
            time.sleep(min(left, LOOK_EVERY_S))
        reports = nodes.survey(cluster.members)
    if not missing or not wishes.grace_s:
        check_nodes(reports, versions())
        return reports, []
    for report in missing:
        cluster.events.add("left_out", node=report.member.name, reason=report.problem)
        listener.warn(f"goes on without a node: {report.problem}")
    there = [report for report in reports if not report.problem]
    if there:
        check_nodes(there, versions())
    return there, missing


class _Placement:
    """Which part of a model each machine gets.

    is_reduced: nodes are missing, so that --ranks and --shares fit no more.
    """

    def __init__(
        self, model: GgufFile, wishes: Wishes, reports: Sequence[NodeReport], is_reduced: bool
    ) -> None:
        self._model, self._wishes = model, wishes
        self._members = [report.member for report in reports]
        n_ranks = 1 + len(reports)
        if wishes.ranks not in {None, n_ranks} and not is_reduced:
            raise UsageError(
                f"--ranks {wishes.ranks}: the cluster has {n_ranks} machines, with a rank on each"
            )
        shares = None if is_reduced else wishes.shares
        self._plan = plan_cut(model, parse_shares(shares, n_ranks))
        self._shards = plan_shards(model, self._plan, shard_directory())
        self._memory = [rank_memory(self._plan, shard) for shard in self._shards]
        here, names = probe(), ["the root", *(member.name for member in self._members)]
        machines = [here, *map(machine_of, reports)]
        ranks = list(zip(names, self._memory, machines, strict=True))
        trained = self._plan.shape.context_length
        self._n_ctx = common_ctx(wishes.ctx, trained, ranks, wishes.parallel)
        self._threads = [threads_of(wishes.threads, 1, machine) for machine in machines]

    def open(self, cluster: Cluster, nodes: Nodes, listener: Listener, clock: _Clock) -> Opened:
        """Bring every machine its shard, and start the ranks."""
        wanted = list(zip(self._members, self._shards[1:], strict=True))
        _bring_shards(self._model, nodes, wanted, listener)
        with listener.cutting(self._model.paths[0].name, self._model.size_bytes) as progress:
            cut_model(self._model, self._shards[:1], progress=progress)
        clock.note("shards_s")
        wishes = self._wishes
        with listener.loading(f"{len(self._shards)} shards") as loaded:
            executor = MpiExecutor(
                self._model.paths[0],
                [shard.path for shard in self._shards],
                self._plan,
                limits_of(self._n_ctx, self._threads[0], wishes),
                options=MpiOptions(wire=wishes.sync),
                threads=self._threads,
                kv_bytes=[rank.kv_bytes(self._n_ctx, wishes.parallel) for rank in self._memory],
                launch=ClusterLaunch(
                    cluster,
                    [(member, shard.name) for member, shard in wanted],
                    health(shard_directory()).links,
                ),
                progress=loaded,
            )
        clock.note("load_s")
        return opened_many(executor, self._shards, self._memory)


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
