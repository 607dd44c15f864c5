"""What the processes of an engine say to each other, as typed records.

Knows the records and how they become bytes.
Refuses to know how bytes travel: client and rank 0 use a Unix socket, ranks use MPI.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import msgspec
import numpy as np

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.engine.arrays import Floats
from dure.engine.executor import Adjustment, Batch
from dure.engine.kv import KvOp
from dure.engine.trace import ExpertNotes

__all__ = [
    "AdapterLoaded",
    "DropAdapter",
    "DropSequence",
    "FactsReported",
    "FromRank0",
    "GatherInputs",
    "GetFacts",
    "GetLogits",
    "InputsGathered",
    "KeepSequences",
    "LoadAdapter",
    "LoadSequence",
    "Logits",
    "ProbeRanks",
    "Probed",
    "RankStats",
    "RankStep",
    "RanksReady",
    "RequestDone",
    "SaveSequence",
    "SequenceLoaded",
    "SequenceSaved",
    "SequencesKept",
    "SetThreads",
    "SetTrace",
    "ShardLoading",
    "StepDone",
    "StepRequest",
    "StopRanks",
    "ToRank",
    "ToRank0",
    "TopKRow",
    "Traced",
    "TracedStep",
    "decode",
    "decode_answer",
    "decode_request",
    "encode",
    "pack_step",
    "unpack",
]

RankStats = tuple[float, float, float, float, int, float]
"""A rank's figures of a step: those of `StepStats`, in its order."""

TracedStep = tuple[float, float, bytes, ExpertNotes]
"""When a step began and ended on a rank, its all-reduces, float64 [n, 4], and experts; see `StepTrace`."""


class _Message(msgspec.Struct, tag=True, array_like=True):
    pass


class AdjustmentBytes(msgspec.Struct, array_like=True):
    """`Adjustment`."""

    ids: bytes
    before: bytes
    repeat: bytes
    after: bytes


# ---------------------------------------------------------------- requests


class StepRequest(_Message):
    """`Batch` for rank 0."""

    tokens: bytes
    positions: bytes
    sequences: bytes
    outputs: list[int]
    top_k: int
    kv: list[KvOp]
    adjust: list[AdjustmentBytes | None] = []
    embed: bool = False
    adapters: AdapterSet = NO_ADAPTERS


class RankStep(_Message):
    """A step for the other ranks: as `StepRequest`, but embeddings follow instead of tokens."""

    positions: bytes
    sequences: bytes
    outputs: list[int]
    top_k: int
    kv: list[KvOp]
    adjust: list[AdjustmentBytes | None] = []
    embed: bool = False
    adapters: AdapterSet = NO_ADAPTERS


class SaveSequence(_Message):
    """Write a sequence to files: each rank its own part."""

    sequence: int
    path: str


class LoadSequence(_Message):
    """Read a sequence of n_tokens positions back: each rank its own part."""

    sequence: int
    path: str
    n_tokens: int


class KeepSequences(_Message):
    """Delete all sequences saved in a directory but these."""

    directory: str
    keys: list[str]


class DropSequence(_Message):
    """Delete a saved sequence."""

    path: str


class GetLogits(_Message):
    """Report all logits of one output row of the last step."""

    row: int


class LoadAdapter(_Message):
    """Load an adapter under a number: each rank its own file, see `Adapters.load_adapter`."""

    number: int
    files: list[str]


class DropAdapter(_Message):
    """Free the adapter with a number, if there is one."""

    number: int


class SetThreads(_Message):
    """Decode with these numbers of threads, one a rank."""

    threads: list[int]


class SetTrace(_Message):
    """Record the times of each step from now on, and its experts; or report them, and stop."""

    on: bool
    experts: bool = False


class ProbeRanks(_Message):
    """Measure how fast every rank reads memory, and how long an exchange of n_bytes takes."""

    n_bytes: int


class GetFacts(_Message):
    """Report what every rank holds."""


class GatherInputs(_Message):
    """Gather what weights are multiplied with from now on, or stop; report what was gathered before.

    cut: endings of the names of weights whose inputs are cut. Of the others, whose inputs all ranks have,
    rank 0 reports.
    """

    on: bool
    cut: list[str]


class StopRanks(_Message):
    """End in peace."""


# ---------------------------------------------------------------- answers


class ShardLoading(_Message):
    """Rank 0 has loaded this part (0 to 1) of its shard."""

    fraction: float


class RanksReady(_Message):
    """Every rank has loaded its shard."""

    n_ctx: int


class TopKRow(msgspec.Struct, array_like=True):
    """`TopK`."""

    ids: bytes
    logits: bytes
    log_sum_exp: float


class StepDone(_Message):
    """`StepResult`. stats: one a rank. embeddings: float32."""

    rows: list[TopKRow]
    stats: list[RankStats]
    embeddings: bytes = b""


class SequenceSaved(_Message):
    """Bytes that every rank has written; None if it could not."""

    ranks: list[int | None]


class SequenceLoaded(_Message):
    """Whether every rank has read its part."""

    ranks: list[bool]


class SequencesKept(_Message):
    """Which of the sequences asked for every rank has, and its bytes of room."""

    ranks: list[tuple[list[str], int]]


class AdapterLoaded(_Message):
    """Why a rank could not load its part of an adapter; "" for each that has."""

    ranks: list[str]


class RequestDone(_Message):
    """Every rank has done what was asked, and there is nothing to report."""


class Traced(_Message):
    """`RankTrace` of every rank: its clock, and its steps."""

    ranks: list[tuple[float, list[TracedStep]]]


class Probed(_Message):
    """Bytes of memory that each rank reads in a second; seconds of an exchange among all."""

    read_bytes_per_s: list[float]
    exchange_s: float


class Logits(_Message):
    """All logits of a row: float32 [n_vocab]."""

    values: bytes


class FactsReported(_Message):
    """Each rank's host, bytes of weights, and peak bytes of memory."""

    ranks: list[tuple[str, int, int]]


class InputsGathered(_Message):
    """What each rank has gathered: by weight, sums and counts of `InputSums`, float32, as bytes."""

    ranks: list[dict[str, tuple[bytes, bytes]]]


_Common = (
    GetLogits
    | SaveSequence
    | LoadSequence
    | KeepSequences
    | DropSequence
    | LoadAdapter
    | DropAdapter
    | SetThreads
    | SetTrace
    | ProbeRanks
    | GetFacts
    | GatherInputs
    | StopRanks
)
ToRank0 = StepRequest | _Common
ToRank = RankStep | _Common
FromRank0 = (
    ShardLoading
    | RanksReady
    | StepDone
    | Logits
    | SequenceSaved
    | SequenceLoaded
    | SequencesKept
    | AdapterLoaded
    | RequestDone
    | Traced
    | Probed
    | FactsReported
    | InputsGathered
)

# ---------------------------------------------------------------- bytes

encode = msgspec.msgpack.Encoder().encode
_HEADER = struct.Struct("<I")


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def decode(data: bytes, kind: Any) -> Any:
    """Return the record in `data`, of one of the types in the union `kind`."""
    return _decoder(kind).decode(data)


def decode_request(data: bytes) -> ToRank0:
    """Return what the client asks of rank 0."""
    request: ToRank0 = decode(data, ToRank0)
    return request


def decode_answer(data: bytes) -> FromRank0:
    """Return what rank 0 answers the client."""
    answer: FromRank0 = decode(data, FromRank0)
    return answer


def step_request(batch: Batch) -> StepRequest:
    """Make a message of a batch."""
    return StepRequest(
        batch.tokens.tobytes(),
        batch.positions.tobytes(),
        batch.sequences.tobytes(),
        list(batch.outputs),
        batch.top_k,
        list(batch.kv),
        [_adjustment_bytes(change) for change in batch.adjust],
        batch.embed,
        batch.adapters,
    )


def _adjustment_bytes(change: Adjustment | None) -> AdjustmentBytes | None:
    if change is None:
        return None
    arrays = (change.ids, change.before, change.repeat, change.after)
    return AdjustmentBytes(*(array.tobytes() for array in arrays))


def adjustments(messages: list[AdjustmentBytes | None]) -> list[Adjustment | None]:
    """Return the adjustments in a message."""
    return [None if message is None else _adjustment(message) for message in messages]


def _adjustment(message: AdjustmentBytes) -> Adjustment:
    floats = (message.before, message.repeat, message.after)
    return Adjustment(
        np.frombuffer(message.ids, np.int32), *(np.frombuffer(x, np.float32) for x in floats)
    )


def rank_step(step: StepRequest) -> RankStep:
    """Make the step that ranks get: without tokens."""
    return RankStep(
        step.positions,
        step.sequences,
        step.outputs,
        step.top_k,
        step.kv,
        step.adjust,
        step.embed,
        step.adapters,
    )


def pack_step(step: StepRequest, embeddings: Floats) -> bytes:
    """Make one message for the other ranks: a length, the record, the embeddings' bytes."""
    head = encode(rank_step(step))
    return b"".join((_HEADER.pack(len(head)), head, embeddings.tobytes()))


def pack(message: ToRank) -> bytes:
    """Make one message without embeddings for the other ranks."""
    head = encode(message)
    return _HEADER.pack(len(head)) + head


def unpack(data: bytes | bytearray) -> tuple[ToRank, Floats]:
    """Return the record and the embeddings (float32, flat) of a message to a rank."""
    (size,) = _HEADER.unpack_from(data)
    stop = _HEADER.size + size
    record: ToRank = decode(bytes(data[_HEADER.size : stop]), ToRank)
    return record, np.frombuffer(bytes(data[stop:]), np.float32)
