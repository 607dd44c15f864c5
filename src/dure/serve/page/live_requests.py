"""The requests that run or wait now, as the page shows them; any of them can be ended from there.

Follows the events of answers on their way. Refuses to know HTTP, and what is asked or answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from dure.generate.request import Event, PrefillProgress, Request, Token
from dure.http.access_log import RequestRecord

__all__ = ["LiveRequest", "LiveRequests"]


class LiveRequest:
    """One request. cancel: ends it. record: of the HTTP request that it belongs to."""

    __slots__ = (
        "_cancel",
        "_first_at",
        "_processed",
        "_record",
        "_request",
        "_started",
        "cached",
        "n_tokens",
    )

    def __init__(
        self, request: Request, record: RequestRecord | None, cancel: Callable[[], None]
    ) -> None:
        self._request, self._record, self._cancel = request, record, cancel
        self._started = time.monotonic()
        self._first_at: float | None = None
        self._processed: int | None = None
        self.cached = self.n_tokens = 0

    @property
    def id(self) -> str:
        """Its id at the engine."""
        return self._request.id

    @property
    def key(self) -> str:
        """The name of its key, "" without one."""
        name = self._request.owner.name
        return "" if name.startswith("@") else name

    def see(self, event: Event) -> None:
        """Take in an event of its answer."""
        if isinstance(event, Token):
            self.n_tokens += 1
            if self._first_at is None:
                self._first_at = time.monotonic()
        elif isinstance(event, PrefillProgress):
            self._processed, self.cached = event.processed, event.cached

    def cancel(self) -> None:
        """End it; its client gets an error."""
        self._cancel()

    def shown(self) -> dict[str, Any]:
        """Return it as the page reads it."""
        now, n_prompt = time.monotonic(), len(self._request.prompt)
        extra = self._record.extra if self._record else {}
        writing_s = now - self._first_at if self._first_at is not None else 0.0
        return {
            "id": self.id,
            "key": self._request.owner.name,
            "state": self._state(),
            "prompt_tokens": n_prompt,
            "cached_tokens": self.cached,
            "processed": n_prompt if self.n_tokens else self._processed or 0,
            "tokens": self.n_tokens,
            "max_tokens": self._request.max_tokens,
            "tokens_per_s": (self.n_tokens - 1) / writing_s if self.n_tokens > 1 else None,
            "age_s": now - self._started,
            "target": extra.get("route_target"),
            "reason": extra.get("route_reason"),
        }

    def _state(self) -> str:
        if self.n_tokens:
            return "writing"
        return "waiting" if self._processed is None else "reading"


class LiveRequests:
    """The requests that have not ended, in the order in which they came."""

    def __init__(self) -> None:
        self._requests: dict[str, LiveRequest] = {}

    def add(
        self, request: Request, record: RequestRecord | None, cancel: Callable[[], None]
    ) -> LiveRequest:
        """Follow a request until `end`."""
        live = self._requests[request.id] = LiveRequest(request, record, cancel)
        return live

    def end(self, live: LiveRequest) -> None:
        """Follow a request no more."""
        self._requests.pop(live.id, None)

    def cancel(self, request_id: str) -> bool:
        """End a request; return False if there is none."""
        live = self._requests.get(request_id)
        if live is not None:
            live.cancel()
        return live is not None

    def owner(self, request_id: str) -> str | None:
        """Return the name of the key of a request, None if there is none."""
        live = self._requests.get(request_id)
        return None if live is None else live.key

    def __iter__(self) -> Iterator[LiveRequest]:
        return iter(list(self._requests.values()))
