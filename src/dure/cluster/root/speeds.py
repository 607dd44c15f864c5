"""How fast the cluster's machines and links are: measured, and stored.

Knows `speeds.json` in the cluster's directory, and how figures are measured. Refuses to decide from them;
`dure.plan.measuring` says which are believed.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from dure.cluster.node_api import NodeClient
from dure.cluster.root.membership import Member
from dure.cluster.root.survey import Nodes
from dure.cluster.trust.identity import ROOT_NAME
from dure.engine.instruments.speed import MEASURE_S, Speed, measure_in_process
from dure.errors import ClusterError
from dure.hardware.gpu import Gpu
from dure.hardware.health import Platform
from dure.hardware.probe import probe
from dure.plan.measuring import KEPT, alike, spread_of, wants_more
from dure.whole_file import write_whole

__all__ = [
    "KnownSpeeds",
    "LinkSpeed",
    "MachineSpeeds",
    "TypeSpeed",
    "kind_of",
    "link_speed",
    "measure_gpus",
    "measure_machines",
    "measured_until_sure",
    "of_gpu",
    "round_trip_s",
]

AT_ONCE = 32
PINGS, BLOCKS = 9, 8
BLOCK_BYTES = 4 << 20


class LinkSpeed(msgspec.Struct, frozen=True):
    """A link between the root and a node. round_trip_s: of the network alone. bytes_per_s: with TLS."""

    round_trip_s: float
    bytes_per_s: float


class TypeSpeed(msgspec.Struct, frozen=True):
    """A machine's speed with weights of one type; see `Speed`.

    samples: how often it was measured. spread: of the samples, as a part of the speed. measured: when last,
    since 1970; None if that was not noted. corrected: a running model has shown another speed since.
    """

    decode_bytes_per_s: float
    prompt_bytes_per_s: float
    threads: int
    samples: int = 1
    spread: float = 0.0
    measured: float | None = None
    corrected: bool = False


class MachineSpeeds(msgspec.Struct, frozen=True):
    """All figures of one machine. types: by name. The link's are None for the root."""

    name: str
    types: dict[str, TypeSpeed]
    round_trip_s: float | None
    link_bytes_per_s: float | None


class _Sample(msgspec.Struct, frozen=True):
    speed: Speed
    time: float | None = None  # since 1970


class _Samples(msgspec.Struct):
    """The latest samples, oldest first. corrected: the speed in decode that a running model has shown."""

    samples: list[_Sample]
    corrected: float | None = None

    @property
    def decode(self) -> list[float]:
        return [one.speed.decode_bytes_per_s for one in self.samples]

    @property
    def speed(self) -> Speed:
        each = [one.speed for one in self.samples]
        newer = [one for one in each if one.layer_s]  # others are of a dure that did not measure it
        return Speed(
            each[-1].type,
            each[-1].threads,
            self.corrected or statistics.median(self.decode),
            statistics.median(one.prompt_bytes_per_s for one in each),
            _median(one.layer_s for one in newer),
            _median(one.column_s for one in newer),
            _median(few for one in newer if (few := one.few_bytes_per_s)),
            each[-1].gpu,
        )


class _SpeedsRecord(msgspec.Struct):
    machines: dict[str, dict[str, _Samples]] = {}  # by name, then by type
    links: dict[str, LinkSpeed] = {}


class _OldRecord(msgspec.Struct):
    """What was written when one measurement was all that was kept."""

    machines: dict[str, dict[str, Speed]] = {}
    links: dict[str, LinkSpeed] = {}

    def renewed(self) -> _SpeedsRecord:
        """Return the same, each measurement as one sample."""
        machines = {
            name: {type_name: _Samples([_Sample(speed)]) for type_name, speed in types.items()}
            for name, types in self.machines.items()
        }
        return _SpeedsRecord(machines, self.links)


class KnownSpeeds:
    """Store what was measured of a cluster; the root's under its own name, `dure-root`.

    A type's name stands for the processor's speed with it, and `of_gpu` of that for a GPU's.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "speeds.json"
        self._for_now: dict[str, dict[str, Speed]] = {}
        try:
            self._record = _read(self._path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            self._record = _SpeedsRecord()  # it is measured again

    @property
    def names(self) -> list[str]:
        """The machines that were measured."""
        return list(self._record.machines)

    def speed(self, name: str, type_name: str) -> Speed | None:
        """Return a machine's speed with weights of a type, if it was measured.

        The median of its samples, or what a running model has shown since.
        """
        found = self._record.machines.get(name, {}).get(type_name)
        return found.speed if found else self._for_now.get(name, {}).get(type_name)

    def samples(self, name: str, type_name: str) -> list[float]:
        """Return the latest measurements of a machine's speed in decode (bytes/s), oldest first."""
        found = self._record.machines.get(name, {}).get(type_name)
        return found.decode if found else []

    def link(self, name: str) -> LinkSpeed | None:
        """Return the link to a node, if it was measured."""
        return self._record.links.get(name)

    @property
    def links(self) -> list[LinkSpeed]:
        """All links that were measured."""
        return list(self._record.links.values())

    def machine(self, name: str, type_names: Sequence[str] | None = None) -> MachineSpeeds:
        """Return the figures of a machine, with those of these types that were measured, or of all."""
        link, measured = self.link(name), self._record.machines.get(name, {})
        wanted = measured if type_names is None else type_names
        return MachineSpeeds(
            name,
            {one: _of_type(measured[one]) for one in wanted if one in measured},
            link.round_trip_s if link else None,
            link.bytes_per_s if link else None,
        )

    def keep(self, name: str, speed: Speed | None = None, link: LinkSpeed | None = None) -> None:
        """Store what was measured of a machine; a speed as one more sample."""
        if speed is not None:
            types = self._record.machines.setdefault(name, {})
            key = of_gpu(speed.type) if speed.gpu else speed.type
            before = types[key].samples if key in types else []
            types[key] = _Samples([*before, _Sample(speed, time.time())][-KEPT:])
        if link is not None:
            self._record.links[name] = link
        self._write()

    def rename(self, name: str, new: str) -> None:
        """Keep what was measured of a machine under another name, and of who had that name nothing."""
        kept: list[dict[str, Any]] = [self._record.machines, self._record.links]
        for figures in kept:
            figures.pop(new, None)
            if name in figures:
                figures[new] = figures.pop(name)
        self._write()

    def use_for_now(self, name: str, speed: Speed) -> None:
        """Use a speed for this start alone: it was measured while the machine had other work."""
        self._for_now.setdefault(name, {})[speed.type] = speed

    def correct(self, name: str, type_name: str, decode_bytes_per_s: float) -> None:
        """Store the speed that a running model has shown; it counts until the machine is measured again."""
        self._record.machines[name][type_name].corrected = decode_bytes_per_s
        self._write()

    def _write(self) -> None:
        write_whole(self._path, msgspec.json.format(msgspec.json.encode(self._record)))


def _read(text: bytes) -> _SpeedsRecord:
    try:
        return msgspec.json.decode(text, type=_SpeedsRecord)
    except msgspec.ValidationError:
        return msgspec.json.decode(text, type=_OldRecord).renewed()


def _of_type(found: _Samples) -> TypeSpeed:
    speed = found.speed
    return TypeSpeed(
        speed.decode_bytes_per_s,
        speed.prompt_bytes_per_s,
        speed.threads,
        len(found.samples),
        spread_of(found.decode),
        found.samples[-1].time,
        found.corrected is not None,
    )


def _median(values: Iterable[float]) -> float:
    """Return the median; 0 if nothing was measured."""
    found = list(values)
    return statistics.median(found) if found else 0.0


def of_gpu(type_name: str) -> str:
    """Return under which name a GPU's speed with a type is kept."""
    return f"{type_name} on the GPU"


def kind_of(platform: Platform | None) -> object:
    """Return what machines of the same speed have in common; no other machine has what is not known."""
    return (platform.processor, platform.cores, platform.limits) if platform else object()


def measured_until_sure(
    measure: Callable[[list[str]], Mapping[str, Speed]],
    names: Sequence[str],
    before: Mapping[str, Sequence[float]],
    kinds: Mapping[str, object],
) -> dict[str, list[Speed]]:
    """Measure machines, and those again whose speed is in doubt; return what was measured, by name.

    measure: measures some machines once, at the same time. Those in doubt are measured one by one: virtual
    machines of one computer slow each other down. before: each one's samples in decode so far. kinds: see
    `kind_of`.
    """
    fresh: dict[str, list[Speed]] = {name: [] for name in names}
    while True:
        decode = {n: [s.decode_bytes_per_s for s in speeds] for n, speeds in fresh.items()}
        doubtful = [
            name
            for name in names
            if wants_more(
                decode[name], before.get(name, ()), alike(name, kinds, {**before, **decode})
            )
        ]
        if not doubtful:
            return fresh
        at_once = [doubtful] if not any(fresh.values()) else [[name] for name in doubtful]
        for some in at_once:
            for name, speed in measure(some).items():
                fresh[name].append(speed)


def measure_machines(
    nodes: Nodes,
    known: KnownSpeeds,
    members: Sequence[Member],
    type_name: str,
    names: Sequence[str],
    kinds: Mapping[str, object],
) -> None:
    """Measure the root and nodes of these names until their speeds can be believed, and store each sample.

    kinds: of all machines; see `kind_of`. Raises ClusterError.
    """

    before = {name: known.samples(name, type_name) for name in kinds}
    measure = partial(measured_once, nodes, members, type_name)
    fresh = measured_until_sure(measure, names, before, kinds)
    for name, speeds in fresh.items():
        for speed in speeds:
            known.keep(name, speed=speed)


def measure_gpus(
    nodes: Nodes,
    known: KnownSpeeds,
    members: Sequence[Member],
    type_name: str,
    gpus: Mapping[str, Gpu],
) -> None:
    """Measure the GPUs of machines, by their names, and store each sample. Raises ClusterError."""

    def measure(names: list[str]) -> dict[str, Speed]:
        return measured_once(nodes, members, type_name, names, gpus)

    for name, speeds in measured_until_sure(measure, list(gpus), {}, {}).items():
        for speed in speeds:
            known.keep(name, speed=speed)


def measured_once(
    nodes: Nodes,
    members: Sequence[Member],
    type_name: str,
    names: Sequence[str],
    gpus: Mapping[str, Gpu] = {},
) -> dict[str, Speed]:
    """Measure the root and nodes of these names once; return their speeds by name.

    gpus: that compute, by machine; without, processors do. Raises ClusterError.
    """
    devices = {name: gpu.name for name, gpu in gpus.items()}
    speeds = _measure_nodes(nodes, [m for m in members if m.name in names], type_name, devices)
    if ROOT_NAME in names:
        own = devices.get(ROOT_NAME, "")
        speeds[ROOT_NAME] = measure_in_process(type_name, probe().cores, own)
    return speeds


def _measure_nodes(
    nodes: Nodes, members: Sequence[Member], type_name: str, devices: Mapping[str, str]
) -> dict[str, Speed]:
    """Measure the speed of several nodes at once; return it by name. Raises ClusterError."""

    def measured(member: Member) -> Speed:
        with closing(nodes.client(member, MEASURE_S)) as client:
            return client.speed(type_name, devices.get(member.name, ""))

    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        speeds = list(threads.map(measured, members))
    return {member.name: speed for member, speed in zip(members, speeds, strict=True)}


def link_speed(nodes: Nodes, member: Member) -> LinkSpeed:
    """Measure the link to a node: the time of TCP handshakes, and of some blocks through TLS."""
    trip_s = round_trip_s(member)
    with closing(nodes.client(member, 60.0)) as client:
        return LinkSpeed(trip_s, _bytes_per_s(client))


def round_trip_s(member: Member) -> float:
    """Return the median time of a TCP handshake. Raises ClusterError."""
    trips = []
    for _ in range(PINGS):
        begun = time.perf_counter()
        try:
            socket.create_connection((member.host, member.port), 5.0).close()
        except OSError as error:
            raise ClusterError(f"{member.name} does not answer: {error}") from error
        trips.append(time.perf_counter() - begun)
    return statistics.median(trips)


def _bytes_per_s(client: NodeClient) -> float:
    block = os.urandom(BLOCK_BYTES)
    client.sink(block)  # connects, and warms up
    begun = time.perf_counter()
    for _ in range(BLOCKS):
        client.sink(block)
    return BLOCKS * BLOCK_BYTES / (time.perf_counter() - begun)
