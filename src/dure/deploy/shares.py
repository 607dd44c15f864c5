"""Decides which nodes take part, and how much of a model each machine gets.

Measures machines and links with unknown speed; the decision itself is in `plan.placement`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dure.cluster.root.gpus import gpus_of
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.readiness import machine_of
from dure.cluster.root.speeds import (
    KnownSpeeds,
    LinkSpeed,
    kind_of,
    link_speed,
    measure_gpus,
    measure_machines,
    measured_once,
    of_gpu,
)
from dure.cluster.root.survey import NodeReport, Nodes, root_report
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.deploy.gpu import wants_gpu
from dure.deploy.options import RunOptions, parse_shares
from dure.deploy.reporter import Reporter
from dure.errors import ClusterError, EngineError
from dure.hardware.gpu import Gpu
from dure.hardware.machine import Machine
from dure.hardware.probe import probe
from dure.model.gguf import GgufFile
from dure.places import shard_directory
from dure.plan.gpu_layers import free_for_layers, mixed_speed
from dure.plan.load import ModelLoad, load_of
from dure.plan.measuring import alike, wants_more
from dure.plan.memory import DEFAULT_CTX, whole_memory
from dure.plan.placement import Candidate, PlacementOptions, fixed_shares, measured_placement

__all__ = ["ClusterPlan", "ClusterPlanner"]

_ANY_SPEED = 1e10  # bytes/s, the same for all
_ANY_LINK = LinkSpeed(3e-4, 1e8)  # of a wired network, 1 Gbit/s


@dataclass(frozen=True)
class ClusterPlan:
    """The nodes that take part, the shares of the root and of each node, and why others are left out.

    guessed: machines whose speed or link the plan had to guess. gpus: that machines may use, by name.
    """

    reports: list[NodeReport]
    shares: list[float]
    left_out: Mapping[str, str] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    gpus: Mapping[str, Gpu] = field(default_factory=dict)

    @property
    def shares_by_name(self) -> dict[str, float]:
        """Return each machine's fraction of the model, by name."""
        names = [ROOT_NAME, *(report.member.name for report in self.reports)]
        total = sum(self.shares)
        return {n: round(share / total, 4) for n, share in zip(names, self.shares, strict=True)}

    def told(self) -> str:
        """Return who takes part with which share, for a user."""
        machines = [
            f"{shown_name(name)} {share:.0%}" for name, share in self.shares_by_name.items()
        ]
        return f"the model is divided: {', '.join(machines)}"


class ClusterPlanner:
    """Divides one model among the machines of a cluster.

    may_measure: unknown speeds are measured; else they are taken for those of the others.
    """

    def __init__(
        self,
        model: GgufFile,
        options: RunOptions,
        cluster: Cluster,
        nodes: Nodes,
        reporter: Reporter,
        *,
        may_measure: bool = True,
    ) -> None:
        self._model, self._options, self._reporter = model, options, reporter
        self._nodes, self._known = nodes, KnownSpeeds(cluster.directory)
        self._may_measure = may_measure

    def plan(
        self, available: list[NodeReport], occupancy: Occupancy, is_reduced: bool
    ) -> ClusterPlan:
        """Divide the model among these nodes, beside the jobs that run on them.

        is_reduced: others are missing, so --shares does not apply. Raises UsageError for options that do
        not fit the machines, ResourceError if all together have too little memory.
        """
        names = [shown_name(ROOT_NAME), *(report.member.name for report in available)]
        placing = _placement_options(self._options)
        fixed = fixed_shares(names, placing, is_reduced=is_reduced)
        gpus = gpus_of(self._nodes, available) if wants_gpu(self._options) else {}
        if fixed is not None:
            return ClusterPlan(available, [fixed[name] for name in names], gpus=gpus)
        load = load_of(
            self._model,
            n_ctx=self._options.ctx,
            n_sequences=self._options.n_sequences,
            value_bytes=self._options.wire.value_bytes,
        )
        placement = measured_placement(
            self._candidates(available, occupancy, load, gpus), load, placing
        )
        for name, reason in placement.left_out.items():
            self._reporter.warn(f"{name} does not take part: {reason} (--nodes insists)")
        used = [report for report in available if report.member.name in placement.shares]
        names = [ROOT_NAME, *(report.member.name for report in used)]
        shares = [placement.shares[name] for name in names]
        guessed = self._guessed(available, load.main_type)
        quicker = self._quicker(gpus, load.main_type)
        for name in sorted(gpus.keys() - quicker.keys()):
            self._reporter.warn(
                f"the GPU of {shown_name(name)} is left alone: {self._why_not(name, load.main_type)} "
                "(a number of --gpu-layers insists)"
            )
        return ClusterPlan(used, shares, placement.left_out, guessed, quicker)

    def _quicker(self, gpus: Mapping[str, Gpu], type_name: str) -> dict[str, Gpu]:
        """Return the GPUs that are worth it: not slower than their machine's processor, or asked for."""
        if self._options.gpu_layers is not None:
            return dict(gpus)
        found = {}
        for name, gpu in gpus.items():
            own, there = (self._known.speed(name, key) for key in (type_name, of_gpu(type_name)))
            if there and (not own or there.decode_bytes_per_s >= own.decode_bytes_per_s):
                found[name] = gpu
        return found

    def _why_not(self, name: str, type_name: str) -> str:
        if self._known.speed(name, of_gpu(type_name)) is None:
            return f"its speed with {type_name} is not known"
        return f"the processor reads {type_name} faster"

    def _guessed(self, available: list[NodeReport], type_name: str) -> tuple[str, ...]:
        nodes, known = [report.member.name for report in available], self._known
        lacking = {name for name in (ROOT_NAME, *nodes) if known.speed(name, type_name) is None}
        lacking |= {name for name in nodes if known.link(name) is None}
        return tuple(name for name in (ROOT_NAME, *nodes) if name in lacking)

    def _candidates(
        self,
        reports: list[NodeReport],
        occupancy: Occupancy,
        load: ModelLoad,
        gpus: Mapping[str, Gpu],
    ) -> list[Candidate]:
        """Return the root and these nodes with their speeds; measure those unknown or in doubt."""
        type_name, members = load.main_type, [report.member for report in reports]
        here = root_report(shard_directory())
        kinds = {r.member.name: kind_of(r.platform) for r in (here, *reports)}
        samples = {name: self._known.samples(name, type_name) for name in kinds}
        alone = [name for name in kinds if not occupancy.holders(name)]
        doubtful = [n for n in alone if wants_more(samples[n], (), alike(n, kinds, samples))]
        unknown = [n for n in kinds if n not in alone and self._known.speed(n, type_name) is None]
        if self._may_measure and (doubtful or unknown):
            with self._reporter.doing(f"measuring the speed of the machines with {type_name}"):
                self._measure(doubtful, kinds, members, type_name)
                # Beside another job a machine looks slower than it is.
                found = measured_once(self._nodes, members, type_name, unknown)
                for name, speed in found.items():
                    self._known.use_for_now(name, speed)
        self._measure_gpus(members, type_name, gpus)
        gpus = self._quicker(gpus, type_name)
        machines = {ROOT_NAME: probe()}
        machines |= {report.member.name: machine_of(report) for report in reports}
        return [
            self._with_gpu(self._candidate(name, type_name, machine, occupancy), load, gpus)
            for name, machine in machines.items()
        ]

    def _measure_gpus(self, members: list[Member], type_name: str, gpus: Mapping[str, Gpu]) -> None:
        """Measure the GPUs whose speed is not known. Raises only if they were asked for."""
        key = of_gpu(type_name)
        unknown = {name: gpu for name, gpu in gpus.items() if not self._known.speed(name, key)}
        for name, gpu in unknown.items() if self._may_measure else ():
            what = f"measuring the GPU of {shown_name(name)} with {type_name}"
            try:
                with self._reporter.doing(what):
                    measure_gpus(self._nodes, self._known, members, type_name, {name: gpu})
            except (ClusterError, EngineError) as error:
                if self._options.gpu_layers is not None:
                    raise
                self._reporter.warn(f"{what} failed: {error}")

    def _with_gpu(
        self, candidate: Candidate, load: ModelLoad, gpus: Mapping[str, Gpu]
    ) -> Candidate:
        """Return a machine with its GPU's memory and speed, as if it held the whole model."""
        gpu = gpus.get(candidate.name)
        speed = self._known.speed(candidate.name, of_gpu(load.main_type))
        if gpu is None or speed is None:
            return candidate
        there = free_for_layers(gpu)
        if self._options.gpu_layers is not None:
            there = min(there, int(load.weights_bytes * self._options.gpu_layers / load.n_layers))
        mixed = mixed_speed(
            load.weights_bytes + load.kv_bytes,
            there,
            speed.decode_bytes_per_s,
            candidate.alone_bytes_per_s,
        )
        own = 0 if gpu.shares_ram else there
        return replace(
            candidate, alone_bytes_per_s=mixed, free_bytes=max(0.0, candidate.free_bytes) + own
        )

    def _measure(
        self, names: list[str], kinds: Mapping[str, object], members: list[Member], type_name: str
    ) -> None:
        """Measure these machines, and the links that are not known."""
        measure_machines(self._nodes, self._known, members, type_name, names, kinds)
        for member in members:
            if self._known.link(member.name) is None:
                self._known.keep(member.name, link=link_speed(self._nodes, member))

    def _candidate(
        self, name: str, type_name: str, machine: Machine, occupancy: Occupancy
    ) -> Candidate:
        speed = self._known.speed(name, type_name)
        link = None if name == ROOT_NAME else self._known.link(name) or self._guessed_link()
        return Candidate(
            name,
            speed.decode_bytes_per_s if speed else self._guess(type_name),
            occupancy.left(name, machine).available_bytes - self._overhead_bytes(machine),
            link.round_trip_s if link else 0.0,
            link.bytes_per_s if link else float("inf"),
            len(occupancy.holders(name)),
        )

    def _guessed_link(self) -> LinkSpeed:
        """Return a link that was not measured: the median of those that were."""
        links = self._known.links
        if not links:
            return _ANY_LINK
        return LinkSpeed(
            statistics.median(link.round_trip_s for link in links),
            statistics.median(link.bytes_per_s for link in links),
        )

    def _guess(self, type_name: str) -> float:
        """Return the speed of a machine that was not measured: the median of those that were."""
        found = [s for name in self._known.names if (s := self._known.speed(name, type_name))]
        return statistics.median(s.decode_bytes_per_s for s in found) if found else _ANY_SPEED

    def _overhead_bytes(self, machine: Machine) -> int:
        """Return what a rank may take there beside weights and KV cache: what the whole model would."""
        memory, trained = whole_memory(self._model, machine.features)
        n_ctx = self._options.ctx or min(DEFAULT_CTX, trained)
        return memory.overhead_bytes(n_ctx, self._options.n_sequences)


def _placement_options(options: RunOptions) -> PlacementOptions:
    shares = options.shares and tuple(parse_shares(options.shares, None))
    return PlacementOptions(options.ranks, shares or None, named=options.nodes is not None)
