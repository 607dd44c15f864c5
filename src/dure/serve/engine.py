"""The seam between serving and generating: what the API asks of an engine.

Implemented by `dure.worker.supervisor.EngineSupervisor`, whose engine is a process of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.generate.request import EngineStats, Event, ModelInfo, Request
from dure.generate.step_notes import StepNote, TokenTrace

__all__ = ["ChangingAdapters", "Engine", "EngineState", "StepWatching", "TokenStream"]

EngineState = Literal["loading", "ready", "restarting", "failed", "stopped"]


class TokenStream(Protocol):
    """The events of one request, in order; the last is Done or Failed.

    Leaving the iteration early does not end the request: `cancel` does.
    """

    def __aiter__(self) -> AsyncIterator[Event]:
        """Yield the events as they come."""

    def cancel(self) -> None:
        """End the request; Done("cancelled") follows. Does nothing if it has ended."""


class ChangingAdapters(Protocol):
    """The adapters (LoRA) that come and go while the model runs.

    Raises NotReadyError unless the engine is ready.
    """

    async def load(self, path: str) -> int:
        """Load an adapter into every rank; return its number, which is a new one. Raises why not."""

    async def drop(self, number: int) -> None:
        """Refuse an adapter to new requests, and free it once the last that uses it has ended."""


class StepWatching(Protocol):
    """What the engine's steps take, while somebody watches."""

    def watching(self) -> AbstractContextManager[None]:
        """Have the engine note its steps within the block."""

    @property
    def n_seen(self) -> int:
        """How many notes there were so far."""

    def since(self, n_seen: int) -> list[StepNote]:
        """Return the notes after the first n_seen; those that are too old are forgotten."""

    async def trace(self) -> TokenTrace:
        """Return the path of the next token. Raises NotReadyError, UsageError, EngineError."""


class Engine(Protocol):
    """Answers requests, many at once."""

    @property
    def state(self) -> EngineState:
        """What the engine is doing."""

    @property
    def progress(self) -> float:
        """While loading or restarting: how far, 0 to 1."""

    @property
    def doing(self) -> str:
        """What is being loaded or waited for, while it is not ready."""

    @property
    def reason(self) -> str:
        """Why it failed, if it did."""

    @property
    def restarts(self) -> int:
        """How often it was started again."""

    @property
    def info(self) -> ModelInfo:
        """The model that runs. Raises NotReadyError before it has been loaded once."""

    @property
    def stats(self) -> EngineStats:
        """The latest statistics, at most a second old while anything runs."""

    @property
    def adapters(self) -> ChangingAdapters:
        """The adapters that it loads beside those of its start."""

    @property
    def steps(self) -> StepWatching:
        """Its steps, for who watches."""

    def submit(self, request: Request) -> TokenStream:
        """Begin a request.

        Raises ContextError if it can never fit, BusyError if too many wait, NotReadyError while
        the model is being loaded for the first time.
        """

    async def embed(
        self, inputs: Sequence[Sequence[int]], adapters: AdapterSet = NO_ADAPTERS
    ) -> list[list[float]]:
        """Return a pooled embedding, not normalized, of every input's tokens. Raises as `submit`."""
