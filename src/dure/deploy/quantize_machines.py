"""Where a model will run, as a choice of types takes it: how fast each machine reads each type.

This machine, machines of a cluster, or machines of the planner's catalogue that one need not have. Speeds
are measured once and kept. Refuses to choose types.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dure.cluster.root.membership import Cluster
from dure.cluster.root.speeds import KnownSpeeds, measured_until_sure
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.deploy.answering import AnsweringMachines
from dure.deploy.options import RunOptions, parse_shares
from dure.deploy.reporter import Reporter
from dure.engine.instruments.speed import Speed, measure_in_process
from dure.errors import ResourceError
from dure.hardware.health import Platform
from dure.hardware.probe import platform, probe
from dure.model.architectures import shape_of
from dure.model.gguf import GgufFile, Value, ValueKind, array_of
from dure.places import cache_directory, cluster_directory
from dure.plan.outlook import Task, outlook_of
from dure.plan.setups import counted, setup_of

__all__ = [
    "Machines",
    "MachinesFor",
    "machines_for",
    "machines_of_catalogue",
    "shares_for",
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


MachinesFor = Callable[[GgufFile], Machines]
"""The machines that a start of a model, with these types, would use."""


def machines_for(types: Sequence[str], options: RunOptions, reporter: Reporter) -> MachinesFor:
    """Return what finds the machines that options name. types: whose speeds are wanted.

    Measures what is not known. Raises ClusterError, and what is returned as a start on a cluster does.
    """
    if options.cluster:
        return _of_cluster(types, options, reporter)
    if options.nodes:
        nodes = options.nodes
        return lambda model: machines_of_catalogue(model, types, nodes)
    return _here(types, options, reporter)


def shares_for(model: GgufFile, options: RunOptions, reporter: Reporter) -> Sequence[float]:
    """Return the shares of the ranks of a start of a model, whose types may be those that it will have.

    On a cluster they are measured and planned as a start does. Raises as that does.
    """
    if not options.cluster:
        return parse_shares(options.shares, options.ranks)
    return AnsweringMachines(Cluster(cluster_directory()), options, reporter).plan(model).shares


# ---------------------------------------------------------------- this machine


def _here(types: Sequence[str], options: RunOptions, reporter: Reporter) -> MachinesFor:
    """Return what finds this machine, once for each rank: they share what it reads."""
    shares = parse_shares(options.shares, options.ranks)
    known = speeds_here(types, reporter)
    total = sum(shares)
    each = tuple(
        {one: _speed(known, ROOT_NAME, one) * share / total for one in types} for share in shares
    )
    names = (shown_name(ROOT_NAME),) * len(shares)
    features = (_features(platform({}, lambda _: "")),) * len(shares)
    return lambda model: Machines(
        names, each, features, tuple(shares), _layers_s(model, known, [ROOT_NAME], types)
    )


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


def _features(found: Platform | None) -> str:
    """Return the features of a processor that decide which kernels compute."""
    return ",".join(sorted(_DECISIVE.intersection(found.features))) if found else ""


def _speed(known: KnownSpeeds, name: str, type_name: str) -> float:
    speed = known.speed(name, type_name)
    assert speed is not None, "it was measured before"
    return speed.decode_bytes_per_s


def _layers_s(
    model: GgufFile, known: KnownSpeeds, names: Sequence[str], types: Sequence[str]
) -> float:
    """Return the seconds of a token that layers take besides reading, on the slowest of machines."""
    layers = [[s.layer_s for one in types if (s := known.speed(name, one))] for name in names]
    return shape_of(model).n_layer * max(statistics.median(each) for each in layers)


# ---------------------------------------------------------------- a cluster


def _of_cluster(types: Sequence[str], options: RunOptions, reporter: Reporter) -> MachinesFor:
    there = AnsweringMachines(Cluster(cluster_directory()), options, reporter)
    there.measure(types)

    def found(model: GgufFile) -> Machines:
        plan = there.plan(model)
        names = [ROOT_NAME, *(report.member.name for report in plan.reports)]
        known, platforms = there.known, there.platforms
        return Machines(
            tuple(map(shown_name, names)),
            tuple({one: _speed(known, name, one) for one in types} for name in names),
            tuple(_features(platforms[name]) for name in names),
            tuple(plan.shares),
            _layers_s(model, known, names, types),
        )

    return found


# ---------------------------------------------------------------- the catalogue


def machines_of_catalogue(model: GgufFile, types: Sequence[str], nodes: str) -> Machines:
    """Return machines by their names in the catalogue, as in pi5-8gb:4, with the speeds it has of them.

    Raises UsageError if it has none of that name, and ResourceError if the model cannot be cut over them.
    """
    setup = setup_of(counted("--nodes", nodes))
    outlook = outlook_of(model, setup, Task())
    if outlook.prediction is None:
        raise ResourceError(f"{nodes}: {outlook.problem}", "name more machines, or others")
    has_experts = any("_exps." in name for name in model.tensors)
    factor = setup.engine.mixture_read.value if has_experts else 1.0
    time = outlook.prediction.generation
    return Machines(
        setup.names,
        tuple(
            {one: factor * device.processor.read_speed(one) for one in types}
            for device in setup.devices
        ),
        tuple(",".join(sorted(device.processor.features)) for device in setup.devices),
        tuple(part.share for part in outlook.parts) or (1.0,),
        time.sync_s + time.rest_s,
    )
