"""What the root asks a node, and what the node answers: typed records, and the client that asks.

The node's agent (`node.agent`) encodes the same records, so a field that only one side knows is a type
error. Knows every path and record. Refuses to know TLS (`trust.connection`), and what a node does with a
question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec

from dure.cluster.job_identity import JobId, JobIdentity
from dure.cluster.trust.connection import NodeConnection
from dure.engine.ranks.job import Job
from dure.hardware.examination.condition import Condition
from dure.hardware.gpu import Gpu
from dure.hardware.health import Health, Platform

if TYPE_CHECKING:
    from dure.engine.instruments.speed import Speed

__all__ = [
    "BLOCK_BYTES",
    "CHUNK_BYTES",
    "DIGEST_BYTES",
    "EXAMINE_S",
    "MOST_ORDER_BYTES",
    "RANK_PATH",
    "RANK_SCRIPT",
    "SETTINGS_OF_LATENCY",
    "Acknowledged",
    "AskSetting",
    "BeginShard",
    "BegunShard",
    "CheckedShard",
    "Examine",
    "ExaminedMachine",
    "FinishShard",
    "KnownSetting",
    "MeasureSpeed",
    "NodeClient",
    "NodeFacts",
    "NodeGpus",
    "NodeJob",
    "NodeShard",
    "NodeShards",
    "RankOrder",
    "RankReport",
    "SunkBytes",
    "shard_digest",
]

CHUNK_BYTES = 4 << 20  # of a shard, sent at once
MOST_SHARD_BYTES = 1 << 50
DIGEST_BYTES = 32
RANK_PATH = "/rank"
RANK_SCRIPT = "dure-rank"  # what starts a rank, first in the PATH of the node's proxy
SETTINGS_OF_LATENCY = "^(file|gro|eee|coalescing|ranks):"  # what a root may change of a node
MOST_ORDER_BYTES = 1 << 20
EXAMINE_S = 90.0  # a card is read, and slow programs are asked
BLOCK_BYTES = 1 << 16  # of what mpiexec and its proxy say to each other, sent at once

ShardBytes = Annotated[int, msgspec.Meta(gt=0, lt=MOST_SHARD_BYTES)]
TypeName = Annotated[str, msgspec.Meta(pattern="^[A-Z0-9_]{1,16}$")]
HexDigest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


def shard_digest(chunks: bytes) -> str:
    """Return one digest for a whole shard, in hex: of the SHA-256 of its chunks, one after another."""
    return hashlib.sha256(chunks).hexdigest()


# ---------------------------------------------------------------- questions


class MeasureSpeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measure the speed with weights of a type. gpu: that computes, by its name; "": the processor."""

    type: TypeName
    gpu: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_]*$", max_length=32)] = ""


class Examine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Examine the machine. only: the readings that are wanted, by their names; all if it is empty."""

    only: Annotated[list[Annotated[str, msgspec.Meta(max_length=50)]], msgspec.Meta(max_length=100)]


class AskSetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read a setting of the machine's latency, or change it. value: it should have; None reads it."""

    name: Annotated[str, msgspec.Meta(pattern=SETTINGS_OF_LATENCY, max_length=200)]
    value: Annotated[str, msgspec.Meta(max_length=100)] | None = None


class BeginShard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make room for a shard, or go on with one."""

    size_bytes: ShardBytes


class FinishShard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A shard is complete. digest: see `shard_digest`."""

    digest: HexDigest


class RenameNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask for a certificate of another name."""

    name: Annotated[str, msgspec.Meta(max_length=63)]


class TakeCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate (PEM) for the node's key; the node is called as it says from now on."""

    certificate: Annotated[str, msgspec.Meta(max_length=8192)]


class RankOrder(msgspec.Struct, frozen=True):
    """Start a rank. job: as for every rank; shard: what this node calls its part.

    owner: whose it is; a rank that it had before ends. shares: it runs beside other jobs, whoever came
    first. ended: other jobs that the root knows to be over, whatever their connections say.
    """

    job: Job
    rank: int
    shard: str
    proxy_id: int
    owner: JobIdentity
    shares: bool = False
    ended: list[JobId] = []


# ---------------------------------------------------------------- answers


class NodeJob(msgspec.Struct, frozen=True):
    """A job whose rank runs on a node. used_bytes: of memory, so far."""

    job: JobIdentity
    threads: int
    used_bytes: int


class NodeFacts(msgspec.Struct, frozen=True):
    """What a node is, how it is now, and which jobs use it."""

    platform: Platform
    health: Health
    jobs: list[NodeJob] = []


class NodeGpus(msgspec.Struct, frozen=True):
    """The GPUs that llama.cpp can compute on, with their memory that is free now."""

    gpus: list[Gpu]


class ExaminedMachine(msgspec.Struct, frozen=True):
    """What an examination of the machine has found."""

    condition: Condition


class KnownSetting(msgspec.Struct, frozen=True):
    """What a setting is now."""

    value: str


class NodeShard(msgspec.Struct, frozen=True):
    """A shard on a node. digest: see `shard_digest`. used: when it was last used, since 1970."""

    name: str
    size_bytes: int
    whole: bool
    digest: str
    used: float


class BegunShard(NodeShard, frozen=True):
    """A shard that may be sent. chunks: the SHA-256 of each chunk in hex, zeros if it has not come."""

    chunks: str

    @property
    def digests(self) -> list[bytes]:
        """The SHA-256 of each chunk."""
        chunks = bytes.fromhex(self.chunks)
        return [chunks[at : at + DIGEST_BYTES] for at in range(0, len(chunks), DIGEST_BYTES)]


class NodeShards(msgspec.Struct, frozen=True):
    """All shards on a node, whole or on their way. free_bytes: the room that is left."""

    shards: list[NodeShard]
    free_bytes: int

    @property
    def whole_names(self) -> set[str]:
        """The names of the shards that are whole."""
        return {shard.name for shard in self.shards if shard.whole}

    def room_for(self, name: str) -> int:
        """Return how many bytes of a shard the node has or could take."""
        return self.free_bytes + sum(one.size_bytes for one in self.shards if one.name == name)


class CheckedShard(msgspec.Struct, frozen=True):
    """Whether every chunk of a shard is what it was."""

    sound: bool


class CertificateRequest(msgspec.Struct, frozen=True):
    """A request for a certificate (PEM) of the node's key, which never leaves it."""

    request: str


class SunkBytes(msgspec.Struct, frozen=True):
    """How many bytes came."""

    n_bytes: int = msgspec.field(name="bytes")


class Acknowledged(msgspec.Struct, frozen=True):
    """It is done; there is nothing to say about it."""


class RankReport(msgspec.Struct, frozen=True):
    """How a rank ended. files: what it left beside its job file, which says why."""

    exit_code: int
    files: dict[str, str]


# ---------------------------------------------------------------- the client


class NodeClient:
    """Ask one node's agent, over one connection. Not thread-safe; `close` it.

    Every method raises what `NodeConnection.ask` raises.
    """

    def __init__(self, connection: NodeConnection) -> None:
        self._connection = connection

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def facts(self) -> NodeFacts:
        """Return what the node is, and how it is now."""
        return self._connection.ask("GET", "/facts", NodeFacts)

    def examine(self, only: Iterable[str] = ()) -> Condition:
        """Have the node examine its machine; that takes seconds. only: the readings that are wanted."""
        asked = Examine(list(only))
        return self._connection.ask("POST", "/examination", ExaminedMachine, asked).condition

    def setting(self, name: str, value: str | None = None) -> str:
        """Return a setting of the node's machine (`dure.hardware.settings`). value: it gets that first."""
        asked = AskSetting(name, value)
        return self._connection.ask("POST", "/setting", KnownSetting, asked).value

    def speed(self, type_name: str, gpu: str = "") -> Speed:
        """Have the node measure its speed with weights of a type, or a GPU's; that takes seconds."""
        from dure.engine.instruments.speed import Speed  # it imports llama.cpp

        return self._connection.ask("POST", "/speed", Speed, MeasureSpeed(type_name, gpu))

    def gpus(self) -> list[Gpu]:
        """Return the GPUs that llama.cpp can compute on there."""
        return self._connection.ask("GET", "/gpus", NodeGpus).gpus

    def prepare_name(self, name: str) -> bytes:
        """Return the node's request for a certificate of another name (PEM)."""
        asked = RenameNode(name)
        return self._connection.ask("POST", "/name", CertificateRequest, asked).request.encode()

    def take_certificate(self, certificate: bytes) -> None:
        """Send the certificate for that name; the node answers under it in a moment."""
        taken = TakeCertificate(certificate.decode())
        self._connection.ask("POST", "/certificate", Acknowledged, taken)

    def leave(self) -> None:
        """Have the node forget the cluster, delete what it stored, and end."""
        self._connection.ask("POST", "/leave", Acknowledged)

    def sink(self, block: bytes) -> None:
        """Send bytes that the node forgets, to measure the connection."""
        self._connection.ask("POST", "/sink", SunkBytes, block)

    def shards(self) -> NodeShards:
        """Return every shard on the node, and the room that is left."""
        return self._connection.ask("GET", "/shards", NodeShards)

    def begin(self, name: str, size_bytes: int) -> BegunShard:
        """Have the node make room for a shard; return which of its chunks it has."""
        return self._connection.ask("POST", f"/shards/{name}", BegunShard, BeginShard(size_bytes))

    def put(self, name: str, index: int, chunk: bytes, digest: bytes) -> None:
        """Send a chunk of a shard. digest: its SHA-256."""
        path, digests = f"/shards/{name}/chunks/{index}", {"x-sha256": digest.hex()}
        self._connection.ask("PUT", path, Acknowledged, chunk, **digests)

    def finish(self, name: str, digest: str) -> None:
        """Have the node check that a shard is complete. digest: see `shard_digest`."""
        self._connection.ask("POST", f"/shards/{name}/finish", Acknowledged, FinishShard(digest))

    def is_sound(self, name: str) -> bool:
        """Have the node read a whole shard; a chunk that is damaged counts as not sent then."""
        return self._connection.ask("POST", f"/shards/{name}/check", CheckedShard).sound

    def delete(self, name: str) -> None:
        """Have the node delete a shard."""
        self._connection.ask("DELETE", f"/shards/{name}", Acknowledged)
