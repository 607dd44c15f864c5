"""What the process that serves and the process that generates say to each other, as typed records.

Knows the records and how they become bytes. Refuses to know how bytes travel.
"""

from __future__ import annotations

import msgspec

from dure.engine.ranks.messages import decode, encode
from dure.errors import ErrorRecord
from dure.generate.request import EngineStats, Event, ModelInfo, Request

__all__ = [
    "Cancel",
    "EngineOptions",
    "Events",
    "Fatal",
    "FromWorker",
    "Happened",
    "Loading",
    "Ready",
    "Start",
    "Stats",
    "Stop",
    "Submit",
    "ToWorker",
    "Warned",
    "decode",
    "encode",
]


class EngineOptions(msgspec.Struct, kw_only=True):
    """What to run, and how.

    model: a GGUF. ranks to sync: as the command line has them. grace_s: how long a missing node of the
    cluster is waited for. ended: why the engine before this one ended, silent_s: after an answer had
    stood still for so long.
    embedding: the model only makes embeddings (as BERT does).
    store: a directory for prefixes that have no room in the KV cache, or "" for none; store_bytes: how
    much of it may be used on this machine; persistent: it is to survive this process.
    checkpoint_s: an answer whose tokens would take so long to compute again is stored while it goes on;
    0 stores none.
    draft: where tokens are guessed from: "lookup", "off", or a draft model's file.
    """

    model: str
    ranks: int | None = None
    cluster: bool = False
    nodes: str | None = None
    interface: str | None = None
    grace_s: float = 60.0
    ended: str = ""
    silent_s: float = 0.0
    shares: str | None = None
    threads: int | None = None
    ctx: int | None = None
    parallel: int = 4
    sync: str = "q8"
    embedding: bool = False
    pooling: str = ""
    store: str = ""
    store_bytes: int = 0
    persistent: bool = False
    checkpoint_s: float = 0.0
    mlock: bool = False
    pin: bool = False
    draft: str = "lookup"


class _Message(msgspec.Struct, tag=True, array_like=True):
    pass


class Start(_Message):
    """The first message: load this."""

    options: EngineOptions


class Submit(_Message):
    """Begin a request."""

    request: Request


class Cancel(_Message):
    """End a request."""

    id: str


class Stop(_Message):
    """End in peace."""


class Loading(_Message):
    """The model is cut or loaded: what, and how far (0 to 1)."""

    what: str
    fraction: float


class Happened(_Message):
    """The engine comes into another state: a `dure.worker.lifecycle.Happening`."""

    happening: str


class Warned(_Message):
    """Something is right, but slower than need be; or, where it is news, something happened."""

    text: str
    is_news: bool = False


class Ready(_Message):
    """Requests can come."""

    info: ModelInfo


class Events(_Message):
    """What a step brought."""

    events: list[Event]


class Stats(_Message):
    """Figures; sent now and then while anything runs, and once when nothing does any more."""

    stats: EngineStats


class Fatal(_Message):
    """The engine ends, for this reason."""

    error: ErrorRecord


ToWorker = Start | Submit | Cancel | Stop
FromWorker = Loading | Happened | Warned | Ready | Events | Stats | Fatal
