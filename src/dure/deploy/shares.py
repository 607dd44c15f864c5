"""Which nodes take part, and how much of a model each machine gets.

Measures machines and links that are not known yet; the decision itself is `plan.placement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dure.cluster.root.membership import Cluster
from dure.cluster.root.readiness import machine_of
from dure.cluster.root.speeds import KnownSpeeds, link_speed, measure_nodes
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.trust.identity import ROOT_NAME
from dure.deploy.options import RunOptions, parse_shares
from dure.deploy.reporter import Reporter
from dure.engine.compute.allreduce import Wire
from dure.engine.instruments.speed import MEASURED_TYPES, measure_in_process
from dure.errors import UsageError
from dure.hardware.machine import Machine
from dure.hardware.probe import probe
from dure.model.architecture import shape_of
from dure.model.gguf import GgufFile
from dure.plan.memory import DEFAULT_CTX, PROCESS_BYTES, kv_bytes_per_token
from dure.plan.placement import Candidate, Work, place, shares_of

__all__ = ["ClusterPlan", "ClusterPlanner", "main_type"]


@dataclass(frozen=True)
class ClusterPlan:
    """The nodes that take part, the shares of the root and of each, and who is left out and why."""

    reports: list[NodeReport]
    shares: list[float]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def shares_by_name(self) -> dict[str, float]:
        """Each machine's part of the whole."""
        names = [ROOT_NAME, *(report.member.name for report in self.reports)]
        total = sum(self.shares)
        return {n: round(share / total, 4) for n, share in zip(names, self.shares, strict=True)}


class ClusterPlanner:
    """Divides one model among the machines of a cluster."""

    def __init__(
        self,
        model: GgufFile,
        options: RunOptions,
        cluster: Cluster,
        nodes: Nodes,
        reporter: Reporter,
    ) -> None:
        self._model, self._options, self._reporter = model, options, reporter
        self._nodes, self._known = nodes, KnownSpeeds(cluster.directory)

    def plan(self, available: list[NodeReport], is_reduced: bool) -> ClusterPlan:
        """Divide the model among the nodes that answer.

        is_reduced: others are missing, so --shares does not fit any more. Raises UsageError for options
        that do not fit the machines, ResourceError if all together have too little memory.
        """
        options, n_ranks = self._options, 1 + len(available)
        if options.ranks not in {None, n_ranks} and not is_reduced:
            raise UsageError(
                f"--ranks {options.ranks}",
                f"the cluster has {n_ranks} machines, with a rank on each",
            )
        if options.shares is not None and not is_reduced:
            return ClusterPlan(available, _given_shares(options.shares, available))
        if not available:
            return ClusterPlan([], [1.0])
        machines = self._candidates(available)
        work = _work_of(self._model, options)
        if options.nodes is not None or options.ranks is not None:
            by_name = shares_of(machines, work)
            return ClusterPlan(available, [by_name[machine.name] for machine in machines])
        placement = place(machines, work)
        for name, reason in placement.left_out.items():
            self._reporter.warn(f"{name} does not take part: {reason} (--nodes insists)")
        used = [report for report in available if report.member.name in placement.shares]
        names = [ROOT_NAME, *(report.member.name for report in used)]
        return ClusterPlan(used, [placement.shares[name] for name in names], placement.left_out)

    def _candidates(self, reports: list[NodeReport]) -> list[Candidate]:
        """Return the root and these nodes with their speeds, which are measured if not known yet."""
        type_name = main_type(self._model)
        missing = [r for r in reports if self._known.speed(r.member.name, type_name) is None]
        if missing or self._known.speed(ROOT_NAME, type_name) is None:
            with self._reporter.doing(f"measuring how fast the machines are with {type_name}"):
                self._measure(missing, type_name)
        machines = [self._candidate(ROOT_NAME, type_name, probe())]
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


def main_type(model: GgufFile) -> str:
    """Return the type of most of a model's weights, or one like it that can be written to measure it."""
    sizes: dict[str, int] = {}
    for tensor in model.tensors.values():
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.size_bytes
    name = max(sizes, key=lambda name: sizes[name])
    return name if name in MEASURED_TYPES else "Q4_K"


def _given_shares(shares: str, reports: list[NodeReport]) -> list[float]:
    """Return those of --shares. Raises UsageError if they are not as many as machines."""
    names = [ROOT_NAME, *(report.member.name for report in reports)]
    numbers = parse_shares(shares, None)
    if len(numbers) != len(names):
        raise UsageError(
            f"--shares {shares} is for {len(numbers)} machines, and here are {len(names)}, in this "
            f"order: {', '.join(names)}"
        )
    return numbers


def _work_of(model: GgufFile, options: RunOptions) -> Work:
    shape = shape_of(model)
    n_ctx = options.ctx or min(DEFAULT_CTX, shape.context_length)
    wire = 4.0 if options.wire is Wire.F32 else 34 / 32
    return Work(
        sum(tensor.size_bytes for tensor in model.tensors.values()),
        kv_bytes_per_token(shape, shape.n_head_kv) * n_ctx * options.n_sequences,
        2 * shape.n_layer,
        shape.n_embd * wire,
    )
