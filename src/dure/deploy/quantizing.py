"""Chooses types for a speed on given machines: how fast each reads a type, and what else a token takes.

Speeds are measured once and kept, and so is what a model showed when it ran: the rest of a token's time.
Refuses to know commands, and how a model is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from dure.cluster.job_identity import JobIdentity
from dure.cluster.root.membership import Cluster
from dure.cluster.root.occupancy import Occupancy
from dure.cluster.root.speeds import (
    KnownSpeeds,
    kind_of,
    measure_machines,
    measured_until_sure,
)
from dure.cluster.root.survey import NodeReport, Nodes, root_report
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.convert.quantize.choosing import TypeChoice, TypeProblem
from dure.convert.quantize.search import Search
from dure.deploy.options import RunOptions, parse_shares
from dure.deploy.reporter import Reporter
from dure.deploy.shares import ClusterPlan, ClusterPlanner
from dure.engine.instruments.speed import Speed, measure_in_process
from dure.errors import UsageError
from dure.hardware.health import Platform
from dure.hardware.probe import platform, probe
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf import GgufFile, Value, ValueKind, array_of
from dure.places import cache_directory, cluster_directory, shard_directory
from dure.plan.type_times import TypeTimes, legal_cuts, retyped
from dure.whole_file import write_whole

__all__ = [
    "ForSpeed",
    "Machines",
    "choose_for_size",
    "likely_types",
    "machines_here",
    "machines_of_cluster",
    "shares_for",
    "size_frontier",
    "speeds_here",
]

_DECISIVE = frozenset(
    {"avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm", "sve", "sve2"}
)


@dataclass(frozen=True)
class Machines:
    """Where a model will run. bytes_per_s: of each machine, by type. features: of its processor.

    shares: of the model. rest_s: what a token takes besides reading weights, until a run has shown it.
    """

    names: tuple[str, ...]
    bytes_per_s: tuple[Mapping[str, float], ...]
    features: tuple[str, ...]
    shares: tuple[float, ...]
    rest_s: float = 0.0

    @property
    def metadata(self) -> dict[str, Value]:
        """Return what stands in a file that was made for them. ns_per_byte: machine by machine."""
        types = sorted(set[str]().union(*self.bytes_per_s))
        costs = [1e9 / speeds[one] for speeds in self.bytes_per_s for one in types]
        return {
            "dure.quantize.machines": array_of(ValueKind.STRING, self.names),
            "dure.quantize.machines.features": array_of(ValueKind.STRING, self.features),
            "dure.quantize.machines.shares": array_of(ValueKind.FLOAT32, self.shares),
            "dure.quantize.machines.types": array_of(ValueKind.STRING, types),
            "dure.quantize.machines.ns_per_byte": array_of(ValueKind.FLOAT32, costs),
        }


def machines_here(types: Sequence[str], options: RunOptions, reporter: Reporter) -> Machines:
    """Return this machine, once for each rank: they share what it reads. Measures what is not known."""
    shares = parse_shares(options.shares, options.ranks)
    known = speeds_here(types, reporter)
    total = sum(shares)
    each = [
        {one: _speed(known, ROOT_NAME, one) * share / total for one in types} for share in shares
    ]
    n, features = len(shares), _features(platform({}, lambda _: ""))
    return Machines((shown_name(ROOT_NAME),) * n, tuple(each), (features,) * n, tuple(shares))


def speeds_here(types: Sequence[str], reporter: Reporter) -> KnownSpeeds:
    """Return this machine's speeds with these types, under `ROOT_NAME`. Measures what is not known."""
    known, cores = KnownSpeeds(cache_directory() / "speeds"), probe().cores
    for type_name in (one for one in types if known.speed(ROOT_NAME, one) is None):
        with reporter.doing(f"measuring how fast this machine reads {type_name}"):

            def measured(names: list[str], one: str = type_name) -> dict[str, Speed]:
                return {name: measure_in_process(one, cores) for name in names}

            for speed in measured_until_sure(measured, [ROOT_NAME], {}, {})[ROOT_NAME]:
                known.keep(ROOT_NAME, speed=speed)
    return known


def machines_of_cluster(
    model: GgufFile, types: Sequence[str], options: RunOptions, reporter: Reporter
) -> Machines:
    """Return the machines that a start on the cluster would use, and their shares. Measures too.

    Raises ClusterError or ResourceError as a start would.
    """
    cluster = Cluster(cluster_directory())
    nodes, known = Nodes(cluster), KnownSpeeds(cluster.directory)
    reports = _reports(cluster, nodes, options)
    members = [report.member for report in reports]
    there = (root_report(shard_directory()), *reports)
    kinds = {report.member.name: kind_of(report.platform) for report in there}
    for type_name in types:
        lacking = [name for name in kinds if known.speed(name, type_name) is None]
        if lacking:
            with reporter.doing(f"measuring how fast the machines read {type_name}"):
                measure_machines(nodes, known, members, type_name, lacking, kinds)
    plan = _planned(model, options, cluster, nodes, reports, reporter)
    names = [ROOT_NAME, *(report.member.name for report in plan.reports)]
    platforms = {report.member.name: report.platform for report in there}
    return Machines(
        tuple(map(shown_name, names)),
        tuple({one: _speed(known, name, one) for one in types} for name in names),
        tuple(_features(platforms[name]) for name in names),
        tuple(plan.shares),
    )


def shares_for(
    search: Search, size_bytes: float, options: RunOptions, reporter: Reporter
) -> Sequence[float]:
    """Return the shares of the ranks of a start, with all tensors of about this size together.

    On a cluster they are measured and planned as a start does. Raises as that does.
    """
    if not options.cluster:
        return parse_shares(options.shares, options.ranks)
    cluster = Cluster(cluster_directory())
    nodes = Nodes(cluster)
    reports = _reports(cluster, nodes, options)
    model = retyped(search.model, likely_types(search, size_bytes))
    return _planned(model, options, cluster, nodes, reports, reporter).shares


def _reports(cluster: Cluster, nodes: Nodes, options: RunOptions) -> list[NodeReport]:
    """Return the nodes that answer, of those that options name."""
    wanted = None if options.nodes in {None, "all"} else set((options.nodes or "").split(","))
    return [
        report
        for report in nodes.survey(cluster.members)
        if report.platform is not None and (wanted is None or report.member.name in wanted)
    ]


def _planned(
    model: GgufFile,
    options: RunOptions,
    cluster: Cluster,
    nodes: Nodes,
    reports: list[NodeReport],
    reporter: Reporter,
) -> ClusterPlan:
    own = options.job or JobIdentity.new("quantize", model.paths[0].stem)
    planner = ClusterPlanner(model, options, cluster, nodes, reporter)
    return planner.plan(reports, Occupancy(own, (), (), {}), is_reduced=False)


def likely_types(search: Search, size_bytes: float) -> dict[str, GgmlType]:
    """Return for each tensor the type that is nearest to this size of all."""
    tensors = search.model.tensors
    bits = 8 * size_bytes / sum(tensor.n_elements for tensor in tensors.values())
    types = {}
    for name, allowed in search.types.items():
        each = [tensors[name].type, *map(type_named, allowed)]
        types[name] = min(each, key=lambda one: abs(8 * one.type_size / one.block_size - bits))
    return types


def _features(found: Platform | None) -> str:
    """Return the features of a processor that decide which kernels compute."""
    return ",".join(sorted(_DECISIVE.intersection(found.features))) if found else ""


def _speed(known: KnownSpeeds, name: str, type_name: str) -> float:
    speed = known.speed(name, type_name)
    assert speed is not None, "it was measured before"
    return speed.decode_bytes_per_s


def choose_for_size(
    search: Search, weights: Mapping[str, float], shares: Sequence[float], size_bytes: float
) -> TypeChoice:
    """Return the choice with the least error within a size, that ranks with these shares can have.

    weights: see `TypeProblem`. Raises UsageError if there is none.
    """
    return _best(_problems(search, weights, shares), size_bytes, ())


def size_frontier(
    search: Search, weights: Mapping[str, float], shares: Sequence[float], n_points: int
) -> list[TypeChoice]:
    """Return the choices with the least error at n_points sizes, that ranks with these shares can have."""
    problems = _problems(search, weights, shares)
    ranges = [problem.size_range for problem in problems]
    least, most = min(low for low, _ in ranges), max(high for _, high in ranges)
    sizes = [least + (most - least) * i / max(1, n_points - 1) for i in range(n_points)]
    found = {one.size_bytes: one for one in (_best(problems, size, ()) for size in sizes)}
    return [found[size] for size in sorted(found)]


def _problems(
    search: Search, weights: Mapping[str, float], shares: Sequence[float]
) -> list[TypeProblem]:
    """Return what can be chosen, for each cut over ranks with these shares."""
    if len(shares) == 1:
        return [search.problem(weights)]
    cuts = [TypeTimes(search.model, (), plan) for plan in legal_cuts(search.model, shares)]
    return [search.problem(weights, None, cut.allows) for cut in cuts]


def _best(
    problems: Sequence[TypeProblem], size_bytes: float, token_s: Sequence[float]
) -> TypeChoice:
    """Return the best choice of all that are possible. Raises UsageError if none is."""
    found: list[TypeChoice] = []
    refusals: list[UsageError] = []
    for problem in problems:
        try:
            found.append(problem.choose(size_bytes, token_s))
        except UsageError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return min(found, key=lambda choice: choice.error)


class ForSpeed:
    """Choices for a model on machines. weights: see `TypeProblem`.

    Besides reading weights, a token takes time that is learned from a run: see `learn`.
    """

    def __init__(self, search: Search, machines: Machines, weights: Mapping[str, float]) -> None:
        self._search, self.machines, self._weights = search, machines, weights
        self._path = search.directory / "rest-of-token.json"
        self.rest_s = self._rests().get(self._key, machines.rest_s)

    @cached_property
    def _key(self) -> str:
        names, shares = ",".join(self.machines.names), ",".join(map(str, self.machines.shares))
        return f"{self._search.model.fingerprint[:32]} {names} {shares}"

    def _rests(self) -> dict[str, float]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.MsgspecError):
            return {}

    def choose(self, tokens_per_s: float, size_bytes: float = float("inf")) -> TypeChoice:
        """Return the choice with the least error at this speed or more. Raises UsageError if none is."""
        left_s = 1 / tokens_per_s - self.rest_s
        if left_s <= 0:
            raise UsageError(
                f"a token takes {self.rest_s * 1e3:.1f} ms besides reading weights",
                f"ask for less than {1 / self.rest_s:.3g} tokens per second, or use other machines",
            )
        problems = [self._problem(times) for times in self._times]
        return _best(problems, size_bytes, [left_s] * len(self.machines.names))

    def frontier(self, n_points: int) -> list[TypeChoice]:
        """Return the best choices at n_points times of a token, the quickest first, each once."""
        problems = [self._problem(times) for times in self._times]
        least = min(problem.quickest_s for problem in problems)
        most = min(max(problem.choose().token_s) for problem in problems)
        ways = [least + (most - least) * i / max(1, n_points - 1) for i in range(n_points)]
        found = [self.choose(1 / (token_s * (1 + 1e-9) + self.rest_s)) for token_s in ways]
        return list({choice.error: choice for choice in found}.values())

    def predicted_s(self, choice: TypeChoice) -> float:
        """Return the seconds of a token with a choice."""
        return max(choice.token_s) + self.rest_s

    def learn(self, choice: TypeChoice, tokens_per_s: float) -> None:
        """Learn the rest of a token's time from a run of a choice."""
        self.rest_s += 1 / tokens_per_s - self.predicted_s(choice)
        write_whole(self._path, msgspec.json.encode({**self._rests(), self._key: self.rest_s}))

    def _problem(self, times: TypeTimes) -> TypeProblem:
        return self._search.problem(self._weights, times, times.allows)

    @cached_property
    def _times(self) -> list[TypeTimes]:
        """By cut that some types allow, what types take."""
        model, machines = self._search.model, self.machines
        if len(machines.names) == 1:
            return [TypeTimes(model, machines.bytes_per_s)]
        return [
            TypeTimes(model, machines.bytes_per_s, plan)
            for plan in legal_cuts(model, machines.shares)
        ]
