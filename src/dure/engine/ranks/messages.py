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

from dure.engine.executor import Adjustment, Batch, Floats
from dure.engine.kv import KvOp

__all__ = [
    "Done",
    "Drop",
    "Facts",
    "FromRank0",
    "GetFacts",
    "GetLogits",
    "Job",
    "Keep",
    "Kept",
    "Load",
    "Loaded",
    "Loading",
    "Logits",
    "Probe",
    "Probed",
    "RankStep",
    "Ready",
    "Row",
    "Save",
    "Saved",
    "SetThreads",
    "Step",
    "StepDone",
    "Stop",
    "ToRank",
    "ToRank0",
    "Trace",
    "Traced",
    "decode",
    "encode",
    "pack_step",
    "unpack",
]


class Job(msgspec.Struct):
    """All that a rank must know to start, written to a file that every rank reads."""

    socket: str  # where the client listens, for rank 0
    model: str  # the whole model, for rank 0's embedding rows
    shards: list[str]
    vocabulary: list[tuple[int, int]]  # each rank's rows, half-open
    embedding_scale: float
    points: tuple[str, ...]
    sums_per_pass: int
    wire: str
    threads: list[int]
    n_ctx: int
    n_batch: int
    n_sequences: int
    n_outputs: int
    max_values: int  # of a vector that is summed
    two_phase_above: float | None
    wait_s: float
    staged: bool = False
    lock: bool = False
    pin: bool = False
    kept: str = ""  # where this rank's machine keeps saved sequences; "": where the client says


class _Message(msgspec.Struct, tag=True, array_like=True):
    pass


class Adjust(msgspec.Struct, array_like=True):
    """`Adjustment`."""

    ids: bytes
    before: bytes
    repeat: bytes
    after: bytes


class Step(_Message):
    """`Batch` for rank 0."""

    tokens: bytes
    positions: bytes
    sequences: bytes
    outputs: list[int]
    n_best: int
    kv: list[KvOp]
    adjust: list[Adjust | None] = []
    embed: bool = False


class RankStep(_Message):
    """A step for the other ranks: as `Step`, but embeddings follow instead of tokens."""

    positions: bytes
    sequences: bytes
    outputs: list[int]
    n_best: int
    kv: list[KvOp]
    adjust: list[Adjust | None] = []
    embed: bool = False


class Save(_Message):
    """A sequence is to be written: each rank its own part."""

    sequence: int
    path: str


class Load(_Message):
    """A sequence is to be read back, with so many positions: each rank its own part."""

    sequence: int
    path: str
    n_tokens: int


class Keep(_Message):
    """Of the sequences saved in a directory only these are wanted; the answer is `Kept`."""

    directory: str
    keys: list[str]


class Drop(_Message):
    """A saved sequence is not wanted any more; the answer is `Kept`."""

    path: str


class GetLogits(_Message):
    """All logits of one output row of the last step are wanted."""

    row: int


class SetThreads(_Message):
    """Every rank is to decode with its number of threads; the answer is `Done`."""

    threads: list[int]


class Trace(_Message):
    """From now on every rank notes the times of each step; or it tells them, and stops."""

    on: bool


class Probe(_Message):
    """How fast every rank reads memory, and how long an exchange of so many bytes takes, is wanted."""

    n_bytes: int


class GetFacts(_Message):
    """What every rank holds is wanted."""


class Stop(_Message):
    """End in peace."""


class Loading(_Message):
    """Rank 0 has loaded this part (0 to 1) of its shard."""

    fraction: float


class Ready(_Message):
    """Every rank has loaded its shard."""

    n_ctx: int


class Row(msgspec.Struct, array_like=True):
    """`Candidates`."""

    ids: bytes
    logits: bytes
    log_sum_exp: float


class StepDone(_Message):
    """`StepResult`. stats: (step_s, sync_s, idle_s, bytes_sent) a rank. embeddings: float32."""

    rows: list[Row]
    stats: list[tuple[float, float, float, float]]
    embeddings: bytes = b""


class Saved(_Message):
    """Bytes that every rank has written; None if it could not."""

    ranks: list[int | None]


class Loaded(_Message):
    """Whether every rank has read its part."""

    ranks: list[bool]


class Kept(_Message):
    """Which of the sequences asked for every rank has, and its bytes of room."""

    ranks: list[tuple[list[str], int]]


class Done(_Message):
    """It is done."""


class Traced(_Message):
    """`RankTrace` of every rank: its clock, and (begun, ended, float64 [n_sums, 4]) of each step."""

    ranks: list[tuple[float, list[tuple[float, float, bytes]]]]


class Probed(_Message):
    """Bytes of memory that each rank reads in a second; seconds of an exchange among all."""

    read_bytes_per_s: list[float]
    exchange_s: float


class Logits(_Message):
    """float32 [n_vocab]."""

    values: bytes


class Facts(_Message):
    """A rank's host, bytes of weights, and peak bytes of memory each."""

    ranks: list[tuple[str, int, int]]


ToRank0 = (
    Step | GetLogits | Save | Load | Keep | Drop | SetThreads | Trace | Probe | GetFacts | Stop
)
ToRank = (
    RankStep | GetLogits | Save | Load | Keep | Drop | SetThreads | Trace | Probe | GetFacts | Stop
)
FromRank0 = (
    Loading | Ready | StepDone | Logits | Saved | Loaded | Kept | Done | Traced | Probed | Facts
)

encode = msgspec.msgpack.Encoder().encode
_HEADER = struct.Struct("<I")


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def decode(data: bytes, kind: Any) -> Any:
    """The record in `data`, of one of the types in `kind`."""
    return _decoder(kind).decode(data)


def step_of(batch: Batch) -> Step:
    """A batch as a message."""
    return Step(
        batch.tokens.tobytes(),
        batch.positions.tobytes(),
        batch.sequences.tobytes(),
        list(batch.outputs),
        batch.n_best,
        list(batch.kv),
        [_adjust_of(change) for change in batch.adjust],
        batch.embed,
    )


def _adjust_of(change: Adjustment | None) -> Adjust | None:
    if change is None:
        return None
    arrays = (change.ids, change.before, change.repeat, change.after)
    return Adjust(*(array.tobytes() for array in arrays))


def adjustments(messages: list[Adjust | None]) -> list[Adjustment | None]:
    """The changes of logits in a message."""
    return [None if message is None else _adjustment(message) for message in messages]


def _adjustment(message: Adjust) -> Adjustment:
    floats = (message.before, message.repeat, message.after)
    return Adjustment(
        np.frombuffer(message.ids, np.int32), *(np.frombuffer(x, np.float32) for x in floats)
    )


def rank_step(step: Step) -> RankStep:
    """A step as the ranks get it: without tokens."""
    return RankStep(
        step.positions,
        step.sequences,
        step.outputs,
        step.n_best,
        step.kv,
        step.adjust,
        step.embed,
    )


def pack_step(step: Step, embeddings: Floats) -> bytes:
    """One message for the other ranks: a length, the record, the embeddings' bytes."""
    head = encode(rank_step(step))
    return b"".join((_HEADER.pack(len(head)), head, embeddings.tobytes()))


def pack(message: ToRank) -> bytes:
    """One message without embeddings for the other ranks."""
    head = encode(message)
    return _HEADER.pack(len(head)) + head


def unpack(data: bytes | bytearray) -> tuple[Any, Floats]:
    """The record and the embeddings (float32, flat) of a message to a rank."""
    (size,) = _HEADER.unpack_from(data)
    stop = _HEADER.size + size
    record = decode(bytes(data[_HEADER.size : stop]), ToRank)
    return record, np.frombuffer(bytes(data[stop:]), np.float32)
