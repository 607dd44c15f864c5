"""How fast the cluster's machines and links are: measured once, and kept.

Knows `speeds.json` in the cluster's directory, and how figures are measured. Refuses to decide from them.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from dure.cluster.root.membership import Member
from dure.cluster.root.survey import Nodes
from dure.engine.environment import with_huge_pages
from dure.engine.instruments.speed import Speed
from dure.errors import ClusterError, EngineError
from dure.whole_file import write_whole

__all__ = ["KnownSpeeds", "LinkSpeed", "link_speed", "measure_here", "measure_nodes"]

MEASURE_S = 120.0
PINGS, BLOCKS = 9, 8
BLOCK_BYTES = 4 << 20


class LinkSpeed(msgspec.Struct, frozen=True):
    """Between the root and a node. round_trip_s: of the network alone. bytes_per_s: with TLS."""

    round_trip_s: float
    bytes_per_s: float


class _State(msgspec.Struct):
    machines: dict[str, dict[str, Speed]] = {}  # by name, then by type
    links: dict[str, LinkSpeed] = {}


class KnownSpeeds:
    """What was measured of this cluster; of the root under its own name, `dure-root`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "speeds.json"
        try:
            self._state = msgspec.json.decode(self._path.read_bytes(), type=_State)
        except (OSError, msgspec.MsgspecError):
            self._state = _State()  # it is measured again

    def speed(self, name: str, type_name: str) -> Speed | None:
        """A machine's speed with weights of a type."""
        return self._state.machines.get(name, {}).get(type_name)

    def link(self, name: str) -> LinkSpeed | None:
        """The link to a node."""
        return self._state.links.get(name)

    def keep(self, name: str, speed: Speed | None = None, link: LinkSpeed | None = None) -> None:
        """Remember what was measured."""
        if speed is not None:
            self._state.machines.setdefault(name, {})[speed.type] = speed
        if link is not None:
            self._state.links[name] = link
        write_whole(self._path, msgspec.json.format(msgspec.json.encode(self._state)))


def measure_here(type_name: str, threads: int) -> Speed:
    """This machine's speed, measured in a process of its own. Raises EngineError."""
    done = subprocess.run(
        [sys.executable, "-m", "dure.engine.instruments.speed", type_name, str(threads)],
        capture_output=True,
        env=with_huge_pages(os.environ),
        timeout=MEASURE_S,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason"]
        raise EngineError(f"the speed with {type_name} cannot be measured: {last[0]}")
    return msgspec.json.decode(done.stdout, type=Speed)


def measure_nodes(nodes: Nodes, members: Sequence[Member], type_name: str) -> dict[str, Speed]:
    """The speed of several nodes, measured at once. Raises ClusterError."""

    def one(member: Member) -> Speed:
        line = nodes.line(member, MEASURE_S)
        try:
            return msgspec.convert(line.ask("POST", "/speed", {"type": type_name}), Speed)
        except msgspec.ValidationError as error:
            raise ClusterError(f"{member.name} answers in another dure's words: {error}") from error
        finally:
            line.close()

    with ThreadPoolExecutor(max_workers=32) as threads:
        found = list(threads.map(one, members))
    return {member.name: speed for member, speed in zip(members, found, strict=True)}


def link_speed(nodes: Nodes, member: Member) -> LinkSpeed:
    """The link to a node: the time of a bare TCP handshake, and of some blocks over the agent's line."""
    trips = []
    for _ in range(PINGS):
        begun = time.perf_counter()
        try:
            socket.create_connection((member.host, member.port), 5.0).close()
        except OSError as error:
            raise ClusterError(f"{member.name} does not answer: {error}") from error
        trips.append(time.perf_counter() - begun)
    block, line = os.urandom(BLOCK_BYTES), nodes.line(member, 60.0)
    try:
        line.ask("POST", "/sink", block)
        begun = time.perf_counter()
        for _ in range(BLOCKS):
            line.ask("POST", "/sink", block)
        return LinkSpeed(
            statistics.median(trips), BLOCKS * BLOCK_BYTES / (time.perf_counter() - begun)
        )
    finally:
        line.close()
