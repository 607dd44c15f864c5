"""Defines the messages between a server and its engine process, as typed records.

Knows the records and how they become bytes. Refuses to know how bytes travel.
"""

from __future__ import annotations

import msgspec

from dure.deploy.options import RestartReason, RunOptions
from dure.engine.ranks.messages import decode, encode
from dure.errors import ErrorRecord
from dure.generate.request import EngineStats, Event, ModelInfo, Request
from dure.generate.step_notes import StepNote, TokenTrace

__all__ = [
    "AdapterAttached",
    "AdapterDetached",
    "AttachAdapter",
    "Cancel",
    "DetachAdapter",
    "EndTrace",
    "EngineOptions",
    "Events",
    "Fatal",
    "FromWorker",
    "LaterAdapter",
    "Loading",
    "Ready",
    "Start",
    "StartEvent",
    "Stats",
    "StepsNoted",
    "Stop",
    "Submit",
    "ToWorker",
    "TokenTraced",
    "TraceToken",
    "Warned",
    "Watch",
    "decode",
    "encode",
]


class LaterAdapter(msgspec.Struct, frozen=True):
    """An adapter that was loaded while the model ran: its file and its number."""

    path: str
    number: int


class EngineOptions(msgspec.Struct, kw_only=True):
    """What to run and how.

    model: a GGUF. run: the options of the command line. restart: why it starts again; None at first.
    embedding: the model only makes embeddings (as BERT does).
    store: a directory for prefixes that do not fit the KV cache; "" for none. store_bytes: its limit on
    this machine. persistent: the store outlives this process.
    checkpoint_s: a running answer is stored once its tokens would take this long to compute again; 0:
    never. adapters: that were loaded beside those of `run` by the engine before this one.
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
    adapters: tuple[LaterAdapter, ...] = ()


class _Message(msgspec.Struct, tag=True, array_like=True):
    pass


class Start(_Message):
    """Load a model; the first message."""

    options: EngineOptions


class Submit(_Message):
    """Start a request."""

    request: Request


class Cancel(_Message):
    """Cancel a request."""

    id: str


class AttachAdapter(_Message):
    """Load an adapter into the ranks; AdapterAttached answers."""

    adapter: LaterAdapter


class DetachAdapter(_Message):
    """Free an adapter once no request uses it; AdapterDetached answers."""

    number: int


class Watch(_Message):
    """Note what every step takes, or no more; StepsNoted tell it."""

    on: bool


class TraceToken(_Message):
    """Trace the next decode step; TokenTraced answers once it is computed."""


class EndTrace(_Message):
    """Trace no more, as nobody waits any longer."""


class Stop(_Message):
    """End the process."""


class Loading(_Message):
    """The progress of a stage of the start, from 0 to 1."""

    what: str
    fraction: float


class StartEvent(_Message):
    """An event of the start: a `dure.deploy.reporter.EngineEvent`."""

    event: str


class Warned(_Message):
    """A warning, or news of what happened to a machine."""

    text: str
    is_news: bool = False


class Ready(_Message):
    """The model is loaded."""

    info: ModelInfo


class AdapterAttached(_Message):
    """An adapter is loaded, or why it is not."""

    number: int
    error: ErrorRecord | None = None


class AdapterDetached(_Message):
    """An adapter is freed."""

    number: int


class Events(_Message):
    """The events of a step."""

    events: list[Event]


class Stats(_Message):
    """Statistics; sent regularly while requests run, and once when the last has ended."""

    stats: EngineStats


class StepsNoted(_Message):
    """What the latest steps took; sent as often as statistics while somebody watches."""

    notes: list[StepNote]


class TokenTraced(_Message):
    """The path of a token, or why there is none."""

    trace: TokenTrace | None
    error: ErrorRecord | None = None


class Fatal(_Message):
    """The engine ends with this error."""

    error: ErrorRecord


ToWorker = (
    Start | Submit | Cancel | AttachAdapter | DetachAdapter | Watch | TraceToken | EndTrace | Stop
)
FromWorker = (
    Loading
    | StartEvent
    | Warned
    | Ready
    | AdapterAttached
    | AdapterDetached
    | Events
    | Stats
    | StepsNoted
    | TokenTraced
    | Fatal
)
