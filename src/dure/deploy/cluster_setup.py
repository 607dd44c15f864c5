"""The machines of a cluster as a plan takes them: with what was measured of them instead of the catalogue.

Knows what a start would use. Refuses to predict: `dure.plan` does.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from dure.cluster.root.membership import Cluster
from dure.cluster.root.readiness import machine_of
from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.deploy.answering import AnsweringMachines
from dure.deploy.options import RunOptions
from dure.deploy.reporter import Reporter
from dure.engine.instruments.speed import FEW, PROMPT, Speed
from dure.hardware.machine import Machine
from dure.hardware.probe import probe
from dure.model.gguf import GgufFile
from dure.plan.devices import Device, DeviceKind, NetworkLink, Processor
from dure.plan.figures import Basis, Figure
from dure.plan.load import read_types
from dure.plan.machines import engine_named, link_named
from dure.plan.setups import Setup

__all__ = ["ClusterSetup", "known_setup", "measured_device", "setup_of_cluster"]

_SOURCE = "`dure cluster bench`"


@dataclass(frozen=True)
class ClusterSetup:
    """The machines that a start would use, their shares, and why others are left out."""

    setup: Setup
    shares: tuple[float, ...]
    left_out: Mapping[str, str]


def setup_of_cluster(
    model: GgufFile, options: RunOptions, cluster: Cluster, reporter: Reporter
) -> ClusterSetup:
    """Return the setup that a start on the cluster would have. Measures what is not known.

    Raises ClusterError or ResourceError as a start would.
    """
    # What is predicted is of processors, and so are these shares.
    options = msgspec.structs.replace(options, gpu_layers=0)
    there = AnsweringMachines(cluster, options, reporter)
    wanted = read_types(model)
    there.measure(wanted)
    plan = there.plan(model)
    machines = {ROOT_NAME: probe()} | {r.member.name: machine_of(r) for r in plan.reports}
    setup = known_setup(there.known, machines, wanted)
    assert setup is not None, "it was measured before"
    return ClusterSetup(setup, tuple(plan.shares), {**there.silent, **plan.left_out})


def known_setup(
    known: KnownSpeeds,
    machines: Mapping[str, Machine],
    types: Sequence[str],
    threads: int | None = None,
) -> Setup | None:
    """Return machines, the root first, as they were measured; None if a figure is missing.

    types: of weights, as of `read_types`; the first stands for the others where those were not measured.
    threads: of each rank, if they are not all that a machine has; a speed with another number is none.
    """
    speeds = {name: known.speed(name, types[0]) for name in machines}
    nodes = [name for name in machines if name != ROOT_NAME]
    if any(known.link(name) is None for name in nodes):
        return None
    if any(one is None or threads not in {None, one.threads} for one in speeds.values()):
        return None
    devices = [
        measured_device(shown_name(name), machine, _speeds(known, name, types))
        for name, machine in machines.items()
    ]
    names = tuple(map(shown_name, machines))
    return Setup(names, tuple(devices), _link(known, machines), engine_named("dure"))


def _speeds(known: KnownSpeeds, name: str, types: Sequence[str]) -> list[Speed]:
    return [speed for one in types if (speed := known.speed(name, one)) is not None]


def measured_device(title: str, machine: Machine, speeds: Sequence[Speed]) -> Device:
    """Return a machine with its measured speeds, the first of which stands for all other types."""
    reads = {one.type: _measured(one.decode_bytes_per_s) for one in speeds}
    prompts = {one.type: _measured(2 / one.weight_s) for one in speeds}
    fews = {one.type: _measured(2 / few_s) for one in speeds if (few_s := one.few_weight_s)}
    layer_s = statistics.median(one.layer_s for one in speeds)
    column_s = statistics.median(one.column_s for one in speeds)
    first = speeds[0].type
    return Device(
        title,
        DeviceKind.DESKTOP,
        Processor(
            reads[first],
            prompts[first],
            prompts[first],
            machine.features,
            reads=reads,
            prompts=prompts,
            layer_s=_measured(layer_s) if layer_s else None,
            column_s=_measured(column_s) if column_s else None,
            fews=fews,
            n_few=FEW,
            n_many=PROMPT,
        ),
        memory=_measured(machine.available_bytes),
        system=_measured(0),
        watts=_measured(0),
    )


def _link(known: KnownSpeeds, machines: Mapping[str, Machine]) -> NetworkLink:
    """Return the slowest link of the machines that were measured."""
    found = [link for name in machines if (link := known.link(name))]
    if not found:
        return link_named("1gbe")  # nobody is there to talk to
    return NetworkLink(
        "the slowest of their links",
        _measured(min(one.bytes_per_s for one in found)),
        _measured(max(one.round_trip_s for one in found) / 2),
    )


def _measured(value: float) -> Figure:
    return Figure(value, Basis.MEASURED, _SOURCE, datetime.date.today().strftime("%Y-%m"))
