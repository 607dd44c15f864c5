"""Keeps the requests that have not ended, with their answers so far, so that a new engine can resume them.

Refuses to know processes: it receives the engine's events, and the news of its death.
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
    Owner,
    PrefillProgress,
    PromptLogits,
    PromptLogprobs,
    Request,
    Timings,
    Token,
)

__all__ = ["PendingAnswer", "PendingRequests"]

MOST_DEATHS = 3  # of the engine during a request, before that request fails


@dataclass
class _Pending:
    """A request that has not ended, and its delivered tokens."""

    request: Request
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    tokens: list[int] = field(default_factory=list)
    n_read: int = 0  # tokens of its prompt whose logits were delivered
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
    """The requests that run or wait, by id."""

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._pending

    def n_of(self, owner: Owner) -> int:
        """Count the requests of an owner."""
        return sum(pending.request.owner.name == owner.name for pending in self._pending.values())

    def add(self, request: Request, cancel: Callable[[str], None]) -> PendingAnswer:
        """Keep a request until it ends; return its answer."""
        pending = self._pending[request.id] = _Pending(request)
        return PendingAnswer(pending, cancel)

    def mark_cancelled(self, request_id: str) -> bool:
        """Mark a request as cancelled; return False if it has ended already."""
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.cancelled = True
        return pending is not None

    def resumed(self) -> Iterator[Request]:
        """Yield every request with its answer so far, for a new engine."""
        for pending in self._pending.values():
            yield msgspec.structs.replace(pending.request, answered=pending.tokens)

    def deliver(self, event: Event) -> None:
        """Deliver an event of the engine to its request; forget the request if it ends."""
        pending = self._pending.get(event.id)
        if pending is None:
            return
        pending.admitted = True
        if isinstance(event, PrefillProgress) and pending.n_deaths:
            return  # its client received the prompt's progress already
        match event:
            case Token():
                pending.tokens.append(event.token)
            case PromptLogprobs() | PromptLogits():
                if event.start < pending.n_read:
                    return  # an engine before this one has told it
                pending.n_read = event.start + 1
            case Done() | Embedded() | Failed():
                del self._pending[event.id]
        pending.events.put_nowait(event)

    def end_cancelled(self) -> None:
        """End the cancelled requests, if no engine runs that could."""
        for pending in [p for p in self._pending.values() if p.cancelled]:
            n = len(pending.request.prompt)
            timings = Timings(prompt_tokens=n, tokens=len(pending.tokens))
            self.deliver(Done(pending.request.id, "cancelled", timings))

    def engine_died(self, reason: str, *, was_ready: bool, forgiven: bool) -> None:
        """Count a death of the engine for the requests that ran; fail those with MOST_DEATHS.

        If none ran, it counts for all: one may kill the engine before its first event.
        forgiven: the engine ran long enough that earlier deaths no longer count.
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
