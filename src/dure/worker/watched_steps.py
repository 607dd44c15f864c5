"""The steps of an engine as a server's watchers see them: notes while anybody watches, traces on demand.

Refuses to know processes: messages are given to it, and taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from dure.errors import DureError, EngineError, NotReadyError, revived
from dure.generate.step_notes import StepNote, TokenTrace
from dure.worker import protocol as msg
from dure.worker.awaited import Awaited

__all__ = ["WatchedSteps"]

_KEPT = 512  # notes, for watchers that read late


class WatchedSteps:
    """What steps took. send: sends to the engine. is_ready: whether an engine listens."""

    def __init__(self, send: Callable[[msg.ToWorker], None], is_ready: Callable[[], bool]) -> None:
        self._send, self._is_ready = send, is_ready
        self._n_watchers = 0
        self._notes: deque[StepNote] = deque(maxlen=_KEPT)
        self._n_seen = 0
        self._traced: Awaited | None = None
        self._n_waiting = 0
        self._trace: TokenTrace | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Have the engine note its steps within the block."""
        self._n_watchers += 1
        if self._n_watchers == 1:
            self._send(msg.Watch(on=True))
        try:
            yield
        finally:
            self._n_watchers -= 1
            if not self._n_watchers:
                self._send(msg.Watch(on=False))
                self._notes.clear()

    @property
    def n_seen(self) -> int:
        """How many notes there were so far."""
        return self._n_seen

    def since(self, n_seen: int) -> list[StepNote]:
        """Return the notes after the first n_seen; those that are too old are forgotten."""
        n_new = min(self._n_seen - n_seen, len(self._notes))
        return list(islice(self._notes, len(self._notes) - n_new, None))

    async def trace(self) -> TokenTrace:
        """Return the path of the next token. Raises NotReadyError, UsageError, EngineError."""
        if not self._is_ready():
            raise NotReadyError("the engine is not ready", "try again in a moment")
        if self._traced is None:
            self._traced = Awaited()
            self._send(msg.TraceToken())
        self._n_waiting += 1
        try:
            await self._traced.wait()
        except asyncio.CancelledError:
            if self._n_waiting == 1 and self._traced is not None:
                self._traced = None
                self._send(msg.EndTrace())
            raise
        finally:
            self._n_waiting -= 1
        assert self._trace is not None, "it was traced"
        return self._trace

    # ------------------------------------------------------------ from the engine

    def take(self, message: msg.StepsNoted | msg.TokenTraced) -> None:
        """Take in what the engine says."""
        if isinstance(message, msg.StepsNoted):
            self._notes += message.notes
            self._n_seen += len(message.notes)
            return
        waiting, self._traced = self._traced, None
        if message.trace is not None:
            self._trace = message.trace
        if waiting is not None and message.error is not None:
            waiting.fail(revived(message.error))
        elif waiting is not None:
            waiting.keep()

    def engine_ready(self) -> None:
        """Go on watching, as a new engine knows nothing of it."""
        if self._n_watchers:
            self._send(msg.Watch(on=True))

    def engine_died(self, error: DureError | None = None) -> None:
        """End the wait for a trace."""
        waiting, self._traced = self._traced, None
        if waiting is not None:
            waiting.fail(error or EngineError("the engine ended before the token was traced"))
