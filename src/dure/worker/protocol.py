"""What the process that serves and the process that generates say to each other, as typed records.

Knows the records and how they become bytes. Refuses to know how bytes travel.
"""

from __future__ import annotations

import msgspec

from dure.deploy.options import RestartReason, RunOptions
from dure.engine.ranks.messages import decode, encode
from dure.errors import ErrorRecord
from dure.generate.request import EngineStats, Event, ModelInfo, Request

__all__ = [
    "Cancel",
    "EngineOptions",
    "Events",
    "Fatal",
    "FromWorker",
    "Loading",
    "Ready",
    "Start",
    "StartEvent",
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

    model: a GGUF. run: as the command line has it. restart: why it starts again; None at the first start.
    embedding: the model only makes embeddings (as BERT does).
    store: a directory for prefixes that have no room in the KV cache, or "" for none; store_bytes: how
    much of it may be used on this machine; persistent: it is to survive this process.
    checkpoint_s: an answer whose tokens would take so long to compute again is stored while it goes on;
    0 stores none.
    draft: where draft tokens come from: "lookup", "off", or a draft model's file.
    """

    model: str
    run: RunOptions = RunOptions()
    restart: RestartReason | None = None
    embedding: bool = False
    pooling: str = ""
    store: str = ""
    store_bytes: int = 0
    persistent: bool = False
    checkpoint_s: float = 0.0
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


class StartEvent(_Message):
    """The engine comes into another state: a `dure.deploy.reporter.EngineEvent`."""

    event: str


class Warned(_Message):
    """Something is right, but slower than it could be; or, if it is news, something happened."""

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
FromWorker = Loading | StartEvent | Warned | Ready | Events | Stats | Fatal
