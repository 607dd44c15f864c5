"""Ends a server: new requests are refused, running ones finish, late ones are cancelled.

Knows which requests run. Refuses to know signals and sockets: `server` does.
"""

from __future__ import annotations

import asyncio

from dure.http.guards.asgi import App, Receive, Scope, Send
from dure.http.guards.faults import StartedAnswer
from dure.http.guards.refusal import Refusal, refuse

__all__ = ["HEALTH_PATHS", "RunningRequests", "Stopping"]

HEALTH_PATHS = frozenset({"/health", "/v1/health"})
_RETRY_S = 5.0  # when a service manager will have started the next one


class RunningRequests:
    """The requests that are being answered, and whether new ones are taken."""

    def __init__(self) -> None:
        self.stopping = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._late: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def stop(self) -> None:
        """Take no new requests."""
        self.stopping = True

    def cancel(self) -> None:
        """End every request now; their streams end with an error."""
        self._late |= self._tasks
        for task in self._late:
            task.cancel()

    def begin(self) -> asyncio.Task[object]:
        """Count the current task, which begins to answer a request."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        return task

    def end(self, task: asyncio.Task[object]) -> None:
        """Count a task no more: it has ended."""
        self._tasks.discard(task)
        self._late.discard(task)

    def was_late(self, task: asyncio.Task[object]) -> bool:
        """Return whether `cancel` ended the task."""
        return task in self._late


class Stopping:
    """Answers 503 once the server stops, and counts the requests that run."""

    def __init__(self, app: App, running: RunningRequests) -> None:
        self._app, self._running = app, running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._running.stopping:
            await refuse(
                send, Refusal(503, "the server is stopping", _RETRY_S, close=True), scope["path"]
            )
        elif scope["path"] in HEALTH_PATHS:
            await self._app(scope, receive, send)
        else:
            await self._watched(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, answer = self._running.begin(), StartedAnswer(send)
        try:
            await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:
            if not self._running.was_late(task):
                raise
            task.uncancel()
            late = Refusal(503, "the server is stopping: ask again", _RETRY_S, close=True)
            await answer.end(late, scope["path"])
        finally:
            self._running.end(task)
