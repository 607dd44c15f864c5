"""Speaks to a server in this very process: `dure serve`, whose own model is one of the upstreams.

Nothing is sent over a network, and the server sees whose request it is: its key, its weight, its record.
Refuses to know what the server is.
"""

from __future__ import annotations

import asyncio

from dure.http.guards.asgi import App, Headers, Message, Scope
from dure.http.guards.faults import Faults
from dure.route.client import UpstreamError

__all__ = ["Absent", "Here", "HereAnswer"]

_MOST_WAITING_BYTES = 256 * 1024  # of an answer that its reader has not taken yet


class Here:
    """The way to an application in this process."""

    def __init__(self, app: App) -> None:
        self._app = Faults(app)
        self._answers: set[asyncio.Task[None]] = set()  # else nobody holds them

    async def send(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        caller: Scope | None = None,
    ) -> HereAnswer:
        """Return the answer, once its head has come. caller: the request that asks for it."""
        answer = HereAnswer(body)
        scope = _scope(method, path, headers, caller)
        task = asyncio.create_task(answer.run(self._app, scope))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        try:
            await answer.head()
        except BaseException:
            answer.abort()
            raise
        return answer

    def close(self) -> None:
        """Do nothing: there are no connections."""


class Absent:
    """The way to the model of `dure serve` for a command that only asks how upstreams are."""

    async def send(
        self,
        method: str,  # noqa: ARG002 (as of the others)
        path: str,  # noqa: ARG002
        headers: Headers,  # noqa: ARG002
        body: bytes = b"",  # noqa: ARG002
        caller: Scope | None = None,  # noqa: ARG002
    ) -> HereAnswer:
        """Raise UpstreamError."""
        raise UpstreamError("is the model of `dure serve`, which does not run", unreachable=True)

    def close(self) -> None:
        """Do nothing."""


class HereAnswer:
    """An answer that is coming: its status and headers, then its body piece by piece."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._pieces: list[bytes] = []
        self._n_waiting = 0
        self._news, self._taken, self._gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._is_complete = self._has_ended = False
        self.status, self.headers = 0, list[tuple[bytes, bytes]]()

    # ---------------------------------------------------------------- for who reads it

    async def head(self) -> None:
        """Wait for the head."""
        while not self.status:
            await self._more()

    async def piece(self) -> bytes:
        """Return what has come since, b"" at the end. Raises UpstreamError if it broke off."""
        while not self._pieces:
            if self._is_complete:
                return b""
            await self._more()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._n_waiting = 0
        self._taken.set()
        return data

    async def body(self) -> bytes:
        """Return the whole body."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    def abort(self) -> None:
        """End the answer: the server sees that its client is gone."""
        self._gone.set()
        self._taken.set()

    async def _more(self) -> None:
        if self._has_ended:
            raise UpstreamError("ended before its answer was whole")
        self._news.clear()
        await self._news.wait()

    # ---------------------------------------------------------------- for the server

    async def run(self, app: App, scope: Scope) -> None:
        """Have the server answer."""
        try:
            await app(scope, self._receive, self._send)
        finally:
            self._has_ended = True
            self._news.set()

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            if piece := bytes(message.get("body", b"")):
                self._pieces.append(piece)
                self._n_waiting += len(piece)
            self._is_complete = not message.get("more_body", False)
        self._news.set()
        while self._n_waiting > _MOST_WAITING_BYTES and not self._gone.is_set():
            self._taken.clear()
            await self._taken.wait()


def _scope(method: str, path: str, headers: Headers, caller: Scope | None) -> Scope:
    """Return a request as the server gets it."""
    plain, _, query = path.partition("?")
    own: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "client": None,
        "server": None,
        "state": {},
    }
    return {
        **own,
        **{name: value for name, value in (caller or {}).items() if name in own},
        "method": method,
        "path": plain,
        "raw_path": plain.encode(),
        "query_string": query.encode("latin-1"),
        "headers": [(b"host", b"here"), *headers],
    }
