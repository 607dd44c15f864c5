"""Every shard that is stored: on this machine, on this machine as a node, and on the nodes of a cluster.

Knows how each place lists, checks and deletes. Refuses to print, and to decide what is deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from dure.cluster.node.shards import ShardStore
from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.survey import Nodes
from dure.errors import ClusterError, ResourceError
from dure.model.shard import delete_shard, is_whole
from dure.places import cluster_directory, node_directory, shard_directory

__all__ = ["HERE", "NODE", "ShardCaches", "ShardListing", "ShardState", "StoredShard"]

HERE, NODE = "here", "here, as a node"
CHECK_S = 1800.0  # for a node to read a shard: a slow card, and much on it


class ShardState(StrEnum):
    """What a shard turned out to be; one that is not sound is made or sent again."""

    SOUND = "sound"
    DAMAGED = "damaged"
    NOT_WHOLE = "not complete, or damaged"


@dataclass(frozen=True)
class StoredShard:
    """A shard. node: where it is; HERE and NODE for this machine. used: when last, since 1970."""

    node: str
    name: str
    size_bytes: int
    whole: bool
    used: float


@dataclass(frozen=True)
class ShardListing:
    """The shards of all places, one place after another, and why a node could not be asked."""

    shards: Sequence[StoredShard]
    problems: Sequence[ClusterError] = ()

    def by_age(self) -> list[StoredShard]:
        """Return the shards, the least recently used first."""
        return sorted(self.shards, key=lambda shard: shard.used)

    def unused_since(self, time: float) -> list[StoredShard]:
        """Return the shards that were last used before a time, since 1970."""
        return [shard for shard in self.shards if shard.used <= time]


class _Place(Protocol):
    """One place that stores shards."""

    def shards(self) -> list[StoredShard]:
        """List its shards. Raises ClusterError if it cannot be asked."""

    def is_sound(self, name: str) -> bool:
        """Read a shard; one that is damaged does not count as whole from now on."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete shards."""


@dataclass(frozen=True)
class _LocalPlace:
    """The shards that this machine made for its own ranks."""

    directory: Path

    def shards(self) -> list[StoredShard]:
        return [shard for path in self.directory.glob("*.gguf") for shard in _local_shard(path)]

    def is_sound(self, name: str) -> bool:
        if is_whole(self.directory / f"{name}.gguf", verify=True):
            return True
        self.delete([name])
        return False

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                delete_shard(self.directory / f"{name}.gguf")
            except OSError as error:
                raise ResourceError(
                    f"{error.filename} cannot be deleted: {error.strerror}"
                ) from error


def _local_shard(path: Path) -> list[StoredShard]:
    """Return the shard in a file; nothing if it is being deleted."""
    with contextlib.suppress(OSError):
        status, is_complete = path.stat(), path.with_suffix(".json").exists()
        used = max(status.st_atime, status.st_mtime)
        return [StoredShard(HERE, path.stem, status.st_size, is_complete, used)]
    return []


@dataclass(frozen=True)
class _OwnNodePlace:
    """The shards that this machine stores for the cluster that it is a node of."""

    store: ShardStore

    def shards(self) -> list[StoredShard]:
        return [
            StoredShard(NODE, held.name, held.size_bytes, held.whole, held.used)
            for held in self.store.all()
        ]

    def is_sound(self, name: str) -> bool:
        return self.store.is_sound(name)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self.store.delete(name)


@dataclass(frozen=True)
class _RemotePlace:
    """The shards on a node of the cluster whose root this machine is."""

    nodes: Nodes
    member: Member

    def shards(self) -> list[StoredShard]:
        with contextlib.closing(self.nodes.client(self.member)) as client:
            found = client.shards().shards
        return [
            StoredShard(self.member.name, one.name, one.size_bytes, one.whole, one.used)
            for one in found
        ]

    def is_sound(self, name: str) -> bool:
        with contextlib.closing(self.nodes.client(self.member, CHECK_S)) as client:
            return client.is_sound(name)

    def delete(self, names: Iterable[str]) -> None:
        with contextlib.closing(self.nodes.client(self.member)) as client:
            for name in names:
                client.delete(name)


@dataclass(frozen=True)
class ShardCaches:
    """List, check and delete the shards of all places, by name."""

    places: dict[str, _Place] = field(default_factory=dict)

    @classmethod
    def of_this_machine(cls, *, with_cluster: bool) -> ShardCaches:
        """Return this machine's, and those of its cluster's nodes. Raises ClusterError if it has none."""
        places: dict[str, _Place] = {
            HERE: _LocalPlace(shard_directory()),
            NODE: _OwnNodePlace(ShardStore(node_directory() / "shards")),
        }
        if with_cluster:
            cluster = Cluster(cluster_directory())
            nodes = Nodes(cluster)
            places |= {member.name: _RemotePlace(nodes, member) for member in cluster.members}
        return cls(places)

    def listing(self) -> ShardListing:
        """List the shards; a node that cannot be asked is passed over, with the reason."""
        shards, problems = list[StoredShard](), list[ClusterError]()
        for place in self.places.values():
            try:
                shards += place.shards()
            except ClusterError as error:
                problems.append(error)
        return ShardListing(shards, problems)

    def check(self, shard: StoredShard) -> ShardState:
        """Read a shard and compare it with its SHA-256; one that is damaged will be made or sent again."""
        if not shard.whole:
            return ShardState.NOT_WHOLE
        is_sound = self.places[shard.node].is_sound(shard.name)
        return ShardState.SOUND if is_sound else ShardState.DAMAGED

    def delete(self, shards: Sequence[StoredShard]) -> None:
        """Delete shards. Raises ClusterError, ResourceError."""
        for node in dict.fromkeys(shard.node for shard in shards):
            names = [shard.name for shard in shards if shard.node == node]
            self.places[node].delete(names)
