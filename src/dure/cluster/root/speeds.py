"""How fast the cluster's machines and links are: measured once, and stored.

Knows `speeds.json` in the cluster's directory, and how figures are measured. Refuses to decide from them.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec

from dure.cluster.node_api import NodeClient
from dure.cluster.root.membership import Member
from dure.cluster.root.survey import Nodes
from dure.engine.instruments.speed import MEASURE_S, Speed
from dure.errors import ClusterError
from dure.whole_file import write_whole

__all__ = ["KnownSpeeds", "LinkSpeed", "MachineSpeeds", "TypeSpeed", "link_speed", "measure_nodes"]

AT_ONCE = 32
PINGS, BLOCKS = 9, 8
BLOCK_BYTES = 4 << 20


class LinkSpeed(msgspec.Struct, frozen=True):
    """A link between the root and a node. round_trip_s: of the network alone. bytes_per_s: with TLS."""

    round_trip_s: float
    bytes_per_s: float


class TypeSpeed(msgspec.Struct, frozen=True):
    """A machine's speed with weights of one type; see `Speed`."""

    decode_bytes_per_s: float
    prompt_bytes_per_s: float
    threads: int


class MachineSpeeds(msgspec.Struct, frozen=True):
    """All figures of one machine. types: by name. The link's are None for the root."""

    name: str
    types: dict[str, TypeSpeed]
    round_trip_s: float | None
    link_bytes_per_s: float | None


class _SpeedsRecord(msgspec.Struct):
    machines: dict[str, dict[str, Speed]] = {}  # by name, then by type
    links: dict[str, LinkSpeed] = {}


class KnownSpeeds:
    """Store what was measured of a cluster; the root's under its own name, `dure-root`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "speeds.json"
        self._for_now: dict[str, dict[str, Speed]] = {}
        try:
            self._record = msgspec.json.decode(self._path.read_bytes(), type=_SpeedsRecord)
        except (OSError, msgspec.MsgspecError):
            self._record = _SpeedsRecord()  # it is measured again

    def speed(self, name: str, type_name: str) -> Speed | None:
        """Return a machine's speed with weights of a type, if it was measured."""
        machines = (self._record.machines, self._for_now)
        found = (known.get(name, {}).get(type_name) for known in machines)
        return next(filter(None, found), None)

    def link(self, name: str) -> LinkSpeed | None:
        """Return the link to a node, if it was measured."""
        return self._record.links.get(name)

    def machine(self, name: str, type_names: Sequence[str]) -> MachineSpeeds:
        """Return the figures of a machine, with those of these types that were measured."""
        link = self.link(name)
        speeds = {type_name: self.speed(name, type_name) for type_name in type_names}
        return MachineSpeeds(
            name,
            {type_name: _of_type(speed) for type_name, speed in speeds.items() if speed},
            link.round_trip_s if link else None,
            link.bytes_per_s if link else None,
        )

    def keep(
        self,
        name: str,
        speed: Speed | None = None,
        link: LinkSpeed | None = None,
        *,
        lasting: bool = True,
    ) -> None:
        """Store what was measured of a machine. lasting: a speed is true for later starts too."""
        if speed is not None:
            known = self._record.machines if lasting else self._for_now
            known.setdefault(name, {})[speed.type] = speed
        if link is not None:
            self._record.links[name] = link
        write_whole(self._path, msgspec.json.format(msgspec.json.encode(self._record)))


def _of_type(speed: Speed) -> TypeSpeed:
    return TypeSpeed(speed.decode_bytes_per_s, speed.prompt_bytes_per_s, speed.threads)


def measure_nodes(nodes: Nodes, members: Sequence[Member], type_name: str) -> dict[str, Speed]:
    """Measure the speed of several nodes at once; return it by name. Raises ClusterError."""

    def measured(member: Member) -> Speed:
        with closing(nodes.client(member, MEASURE_S)) as client:
            return client.speed(type_name)

    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        speeds = list(threads.map(measured, members))
    return {member.name: speed for member, speed in zip(members, speeds, strict=True)}


def link_speed(nodes: Nodes, member: Member) -> LinkSpeed:
    """Measure the link to a node: the time of TCP handshakes, and of some blocks through TLS."""
    round_trip_s = _round_trip_s(member)
    with closing(nodes.client(member, 60.0)) as client:
        return LinkSpeed(round_trip_s, _bytes_per_s(client))


def _round_trip_s(member: Member) -> float:
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
