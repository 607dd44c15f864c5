"""From a model file to an executor on the cluster's machines: look, plan, send shards, start.

The cluster's part of `opening`. Refuses to know how nodes are asked, and how ranks are started there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dure.cluster.root.distribution import Delivery, deliver
from dure.cluster.root.launch import ClusterLaunch
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.readiness import common_ctx, machine_of
from dure.cluster.root.restart_watch import RestartWatch
from dure.cluster.root.speeds import KnownSpeeds, link_speed, measure_nodes
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.trust.identity import ROOT_NAME
from dure.deploy.learning import Learning
from dure.deploy.start import (
    Listener,
    Opened,
    Wishes,
    limits_of,
    memory_of_whole,
    open_executor,
    opened_many,
    parse_shares,
    rank_memory,
    threads_of,
)
from dure.deploy.waiting import Gathering
from dure.engine.compute.allreduce import Wire
from dure.engine.instruments.speed import MEASURED_TYPES, measure_in_process
from dure.engine.ranks.mpi import MpiExecutor, MpiOptions
from dure.errors import ResourceError, UsageError
from dure.hardware.machine import Machine
from dure.hardware.probe import health, probe
from dure.model.architecture import shape_of
from dure.model.cut import plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import Shard, cut_model, plan_shards
from dure.places import cluster_directory, shard_directory
from dure.plan.memory import DEFAULT_CTX, PROCESS_BYTES, kv_bytes_per_token
from dure.plan.placement import Candidate, Work, place, shares_of
from dure.worker.lifecycle import Happening

__all__ = ["start_on_cluster"]

SHARD_TIMEOUT_S = 60.0  # for a node to take a chunk


def start_on_cluster(model: GgufFile, wishes: Wishes, listener: Listener) -> Opened:
    """Start a model on the root and the nodes of its cluster, one rank each; as `open_executor`.

    A node that does not answer is waited for, wishes.grace_s; then it goes on without, where what is
    left has the memory for it.
    """
    cluster = Cluster(cluster_directory())
    nodes, clock = Nodes(cluster), _Clock()
    if wishes.ended:
        cluster.events.add("engine_ended", reason=wishes.ended, silent_s=wishes.silent_s)
    there = _There(model, wishes, cluster, nodes, listener, clock)
    chosen, start = there.choose()
    clock.note("choose_s")
    opened = start.open(cluster, nodes, listener, clock)
    cluster.events.add(
        "engine_started",
        model=model.paths[0].name,
        shares=chosen.shares_by_name,
        left_out=dict(chosen.left_out),
        without=[member.name for member, _ in there.without],
        **clock.seconds,
    )
    used = [report.member.name for report in chosen.reports]
    watch = RestartWatch(cluster, nodes, there.without, used)
    return replace(
        opened,
        why_again=watch.why,
        note=lambda event, facts: cluster.events.add(event, **facts),
        learn=Learning(cluster, _main_type(model), start.held_bytes).learn,
    )


class _There:
    """Finds nodes that can run a model: gathers them, and goes without those that have no room for it.

    without: those that are missing or full, each with the bytes that its disk lacks.
    """

    def __init__(
        self,
        model: GgufFile,
        wishes: Wishes,
        cluster: Cluster,
        nodes: Nodes,
        listener: Listener,
        clock: _Clock,
    ) -> None:
        self._model, self._wishes, self._cluster = model, wishes, cluster
        self._nodes, self._listener, self._clock = nodes, listener, clock
        self._full: dict[str, tuple[Member, int]] = {}
        self.without: list[tuple[Member, int]] = []

    def choose(self) -> tuple[_Chosen, _Alone | _Placement]:
        """Who takes part, ready to be started."""
        wishes = self._wishes
        gathering = Gathering(
            self._cluster,
            self._nodes,
            wishes.grace_s,
            self._listener,
            named=_names(wishes.nodes),
            insists=wishes.nodes is not None or wishes.shares is not None,
            may_be_alone=bool(wishes.ended),
        )
        while True:
            there, missing = gathering.wait()
            self._clock.note("gather_s")
            self._listener.happened(Happening.PLACES)
            self.without = [(report.member, 0) for report in missing] + [*self._full.values()]
            try:
                chosen, start = self._place(there)
            except ResourceError as error:
                if not missing:
                    raise
                gathering.insist(str(error))
            else:
                if not self._go_without(start.full(self._nodes)):
                    return chosen, start
            self._listener.happened(Happening.LACKS)

    def _place(self, there: list[NodeReport]) -> tuple[_Chosen, _Alone | _Placement]:
        model, wishes = self._model, self._wishes
        usable = [report for report in there if report.member.name not in self._full]
        choice = _Choice(model, wishes, self._cluster, self._nodes, self._listener)
        chosen = choice.of(usable, bool(self.without))
        return chosen, _Placement(model, wishes, chosen) if chosen.reports else _Alone(
            model, wishes
        )

    def _go_without(self, full: Sequence[_Full]) -> bool:
        """Whether nodes have too little room. At the first start that is an error that the user mends."""
        if full and not self._wishes.ended:
            raise ResourceError(full[0].reason)
        for one in full:
            self._cluster.events.add("left_out", node=one.member.name, reason=one.reason)
            self._full[one.member.name] = (one.member, one.needed_bytes)
        return bool(full)


@dataclass(frozen=True)
class _Full:
    """A node whose disk has no room for its shard of so many bytes."""

    member: Member
    needed_bytes: int
    reason: str


def _names(nodes: str | None) -> list[str] | None:
    """The nodes that --nodes names; None for all. Raises UsageError where it names none."""
    if nodes is None or nodes == "all":
        return None
    names = list(dict.fromkeys(n.strip().lower() for n in nodes.split(",") if n.strip()))
    if not names:
        raise UsageError(f"--nodes {nodes}: name some, as in pi-1,pi-2, or say `all`")
    return names


class _Clock:
    """What each part of a start took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def note(self, part: str) -> None:
        """A part has ended."""
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._last, 2)
        self._last = now


@dataclass(frozen=True)
class _Chosen:
    """The nodes that take part, the shares of the root and of each, and who does not take part, why."""

    reports: list[NodeReport]
    shares: list[float]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def shares_by_name(self) -> dict[str, float]:
        """Each machine's part of the whole."""
        names = [ROOT_NAME, *(report.member.name for report in self.reports)]
        total = sum(self.shares)
        return {n: round(share / total, 4) for n, share in zip(names, self.shares, strict=True)}


class _Choice:
    """Decides which nodes take part, and how much of a model each machine gets."""

    def __init__(
        self, model: GgufFile, wishes: Wishes, cluster: Cluster, nodes: Nodes, listener: Listener
    ) -> None:
        self._model, self._wishes, self._listener = model, wishes, listener
        self._cluster, self._nodes = cluster, nodes
        self._known = KnownSpeeds(cluster.directory)

    def of(self, there: list[NodeReport], is_reduced: bool) -> _Chosen:
        """From the nodes that are there. is_reduced: others are missing, so --shares fits no more."""
        wishes, n_ranks = self._wishes, 1 + len(there)
        if wishes.ranks not in {None, n_ranks} and not is_reduced:
            raise UsageError(
                f"--ranks {wishes.ranks}: the cluster has {n_ranks} machines, with a rank on each"
            )
        if wishes.shares is not None and not is_reduced:
            return _Chosen(there, self._shares(wishes.shares, there))
        if not there:
            return _Chosen([], [1.0])
        machines = self._machines(there)
        work = _work_of(self._model, wishes)
        if wishes.nodes is not None or wishes.ranks is not None:
            by_name = shares_of(machines, work)
            return _Chosen(there, [by_name[machine.name] for machine in machines])
        placement = place(machines, work)
        for name, reason in placement.left_out.items():
            self._listener.warn(f"{name} does not take part: {reason} (--nodes insists)")
        used = [report for report in there if report.member.name in placement.shares]
        names = [ROOT_NAME, *(report.member.name for report in used)]
        return _Chosen(used, [placement.shares[name] for name in names], placement.left_out)

    def _shares(self, shares: str, reports: list[NodeReport]) -> list[float]:
        """Those of the user. Raises UsageError where they are not as many as machines."""
        names = [ROOT_NAME, *(report.member.name for report in reports)]
        numbers = parse_shares(shares, None)
        if len(numbers) != len(names):
            raise UsageError(
                f"--shares {shares} is for {len(numbers)} machines, and here are {len(names)}, in this "
                f"order: {', '.join(names)}"
            )
        return numbers

    def _machines(self, reports: list[NodeReport]) -> list[Candidate]:
        """What is known of the root and these nodes; measured first, where it is not known yet."""
        type_name = _main_type(self._model)
        missing = [r for r in reports if self._known.speed(r.member.name, type_name) is None]
        if missing or self._known.speed(ROOT_NAME, type_name) is None:
            with self._listener.doing(f"measuring how fast the machines are with {type_name}"):
                self._measure(missing, type_name)
        here = probe()
        machines = [self._candidate(ROOT_NAME, type_name, here)]
        return machines + [
            self._candidate(report.member.name, type_name, machine_of(report)) for report in reports
        ]

    def _measure(self, reports: list[NodeReport], type_name: str) -> None:
        members = [report.member for report in reports]
        for name, speed in measure_nodes(self._nodes, members, type_name).items():
            self._known.keep(name, speed=speed)
        for member in members:
            self._known.keep(member.name, link=link_speed(self._nodes, member))
        if self._known.speed(ROOT_NAME, type_name) is None:
            self._known.keep(ROOT_NAME, speed=measure_in_process(type_name, probe().cores))

    def _candidate(self, name: str, type_name: str, machine: Machine) -> Candidate:
        speed, link = self._known.speed(name, type_name), self._known.link(name)
        assert speed is not None, "measured"
        return Candidate(
            name,
            speed.decode_bytes_per_s,
            machine.available_bytes - PROCESS_BYTES,
            link.round_trip_s if link else 0.0,
            link.bytes_per_s if link else float("inf"),
        )


def _main_type(model: GgufFile) -> str:
    """The type of most of a model's weights, or one like it that can be written to measure it."""
    sizes: dict[str, int] = {}
    for tensor in model.tensors.values():
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.size_bytes
    name = max(sizes, key=lambda name: sizes[name])
    return name if name in MEASURED_TYPES else "Q4_K"


def _work_of(model: GgufFile, wishes: Wishes) -> Work:
    shape = shape_of(model)
    n_ctx = wishes.ctx or min(DEFAULT_CTX, shape.context_length)
    wire = 4.0 if wishes.sync is Wire.F32 else 34 / 32
    return Work(
        sum(tensor.size_bytes for tensor in model.tensors.values()),
        kv_bytes_per_token(shape, shape.n_head_kv) * n_ctx * wishes.parallel,
        2 * shape.n_layer,
        shape.n_embd * wire,
    )


class _Alone:
    """The root holds it all."""

    def __init__(self, model: GgufFile, wishes: Wishes) -> None:
        self._model = model
        self._wishes = replace(
            wishes, cluster=False, ranks=None, shares=None, nodes=None, interface=None
        )
        memory_of_whole(model, self._wishes, probe())  # raises where that is too little

    @property
    def held_bytes(self) -> Mapping[str, float]:
        """Nothing to divide otherwise."""
        return {}

    def full(self, _nodes: Nodes) -> Sequence[_Full]:
        """No node takes part."""
        return ()

    def open(self, _cluster: Cluster, _nodes: Nodes, listener: Listener, clock: _Clock) -> Opened:
        """Start it here."""
        opened = open_executor(self._model, self._wishes, listener)
        clock.note("load_s")
        return opened


class _Placement:
    """What each machine holds, and starting it there."""

    def __init__(self, model: GgufFile, wishes: Wishes, chosen: _Chosen) -> None:
        self._model, self._wishes, reports = model, wishes, chosen.reports
        self._members = [report.member for report in reports]
        self._plan = plan_cut(model, chosen.shares)
        self._shards = plan_shards(model, self._plan, shard_directory())
        self._memory = [rank_memory(self._plan, shard) for shard in self._shards]
        here, names = probe(), ["the root", *(member.name for member in self._members)]
        machines = [here, *map(machine_of, reports)]
        ranks = list(zip(names, self._memory, machines, strict=True))
        trained = self._plan.shape.context_length
        self._n_ctx = common_ctx(wishes.ctx, trained, ranks, wishes.parallel)
        self._threads = [threads_of(wishes.threads, 1, machine) for machine in machines]

    @property
    def held_bytes(self) -> Mapping[str, float]:
        """Bytes of each machine's weights, by name."""
        names = [ROOT_NAME, *(member.name for member in self._members)]
        return {name: shard.weights_bytes for name, shard in zip(names, self._shards, strict=True)}

    def full(self, nodes: Nodes) -> Sequence[_Full]:
        """The nodes that neither have their shard nor room for it."""
        found = []
        for member, shard in zip(self._members, self._shards[1:], strict=True):
            with nodes.client(member) as client:
                room = client.shards().room_for(shard.name)
            if room < shard.weights_bytes:
                reason = (
                    f"{member.name} has room for {room / 1e6:,.0f} MB, and its shard takes "
                    f"{shard.weights_bytes / 1e6:,.0f} MB: `dure cache prune --days 0 --cluster` makes "
                    "room, or a larger --quota on it"
                )
                found.append(_Full(member, shard.weights_bytes, reason))
        return found

    def open(self, cluster: Cluster, nodes: Nodes, listener: Listener, clock: _Clock) -> Opened:
        """Bring every machine its shard, and start the ranks."""
        wanted = list(zip(self._members, self._shards[1:], strict=True))
        listener.happened(Happening.SENDS)
        _bring_shards(self._model, nodes, wanted, listener)
        with listener.cutting(self._model.paths[0].name, self._model.size_bytes) as progress:
            cut_model(self._model, self._shards[:1], progress=progress)
        clock.note("shards_s")
        wishes = self._wishes
        listener.happened(Happening.LOADS)
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
                    wishes.interface,
                ),
                progress=loaded,
            )
        clock.note("load_s")
        return opened_many(executor, self._shards, self._memory)


def _bring_shards(
    model: GgufFile, nodes: Nodes, wanted: Sequence[tuple[Member, Shard]], listener: Listener
) -> None:
    """Send every node the shard that it lacks; nothing where all are there."""
    with contextlib.ExitStack() as clients:
        deliveries = []
        for member, shard in wanted:
            client = clients.enter_context(nodes.client(member, SHARD_TIMEOUT_S))
            if shard.name not in client.shards().whole_names:
                deliveries.append(Delivery(shard, client))
        total = sum(delivery.shard.weights_bytes for delivery in deliveries)
        with listener.cutting(f"{model.paths[0].name} for {len(deliveries)} nodes", total) as told:
            seen = 0

            def progress() -> None:
                nonlocal seen
                done = sum(delivery.done_bytes for delivery in deliveries)
                told(done - seen)
                seen = done

            deliver(model, deliveries, progress=progress)
