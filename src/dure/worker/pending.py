"""The requests that have not ended, with their answers so far: what a new engine takes up.

Refuses to know processes: it is told what the engine says, and that it died.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from dure.errors import DureError, EngineError
from dure.generate.request import (
    Done,
    Embedded,
    Event,
    Failed,
    PrefillProgress,
    Request,
    Timings,
    Token,
)

__all__ = ["PendingAnswer", "PendingRequests"]

MOST_DEATHS = 3  # of the engine, before a request that ran each time is given up


@dataclass
class _Pending:
    """A request that has not ended, and what was delivered of it."""

    request: Request
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    tokens: list[int] = field(default_factory=list)
    admitted: bool = False
    cancelled: bool = False
    n_deaths: int = 0


class PendingAnswer:
    """The events of one request; see `dure.serve.engine`."""

    def __init__(self, pending: _Pending, cancel: Callable[[str], None]) -> None:
        self._pending, self._cancel = pending, cancel

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            event = await self._pending.events.get()
            yield event
            if isinstance(event, Done | Failed | Embedded):
                return

    def cancel(self) -> None:
        """End the request."""
        self._cancel(self._pending.request.id)


class PendingRequests:
    """Every request that runs or waits, by its id."""

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._pending

    def add(self, request: Request, cancel: Callable[[str], None]) -> PendingAnswer:
        """Remember a request until it ends."""
        pending = self._pending[request.id] = _Pending(request)
        return PendingAnswer(pending, cancel)

    def mark_cancelled(self, request_id: str) -> bool:
        """Remember that a request is to end; returns whether it has not ended yet."""
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.cancelled = True
        return pending is not None

    def resumed(self) -> Iterator[Request]:
        """Yield every request with its answer so far, for a new engine."""
        for pending in self._pending.values():
            yield msgspec.structs.replace(pending.request, answered=pending.tokens)

    def deliver(self, event: Event) -> None:
        """Pass on an event of the engine, and forget a request that it ends."""
        pending = self._pending.get(event.id)
        if pending is None:
            return
        pending.admitted = True
        if isinstance(event, PrefillProgress) and pending.n_deaths:
            return  # its client has seen the prompt's progress already
        if isinstance(event, Token):
            pending.tokens.append(event.token)
        elif not isinstance(event, PrefillProgress):
            del self._pending[event.id]
        pending.events.put_nowait(event)

    def end_cancelled(self) -> None:
        """End what was cancelled, while no engine is there that could."""
        for pending in [p for p in self._pending.values() if p.cancelled]:
            n = len(pending.request.prompt)
            timings = Timings(prompt_tokens=n, tokens=len(pending.tokens))
            self.deliver(Done(pending.request.id, "cancelled", timings))

    def engine_died(self, reason: str, *, was_ready: bool, forgiven: bool) -> None:
        """Count a death against the requests that ran, and give up those that ran at too many.

        If none ran, it counts against all: one may kill the engine before anything is heard of it.
        forgiven: the engine had answered for so long that earlier deaths do not count any more.
        """
        pendings = list(self._pending.values())
        if forgiven:
            for pending in pendings:
                pending.n_deaths = 0
        none_ran = was_ready and not any(pending.admitted for pending in pendings)
        for pending in pendings:
            pending.n_deaths += pending.admitted or none_ran
            pending.admitted = False
            if pending.n_deaths >= MOST_DEATHS:
                error = EngineError(
                    f"the engine died {pending.n_deaths} times while it answered this request: {reason}"
                )
                self.deliver(Failed(pending.request.id, error.record()))

    def fail_all(self, error: DureError) -> None:
        """End every request with an error."""
        for request_id in list(self._pending):
            self.deliver(Failed(request_id, error.record()))
