"""What the client of one request is sent: an upstream's answer as it comes, or why there is none.

Knows what has been sent already: a stream that has only comments yet, which say that somebody is working,
can be continued by another upstream. Refuses to know upstreams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from dure.http.guards.asgi import Headers, Send, with_headers
from dure.http.guards.refusal import Refusal, refuse, stream_error
from dure.route.client import ComingAnswer
from dure.route.headers import REASON, to_client

__all__ = ["HeldAnswer", "Reply"]

_STREAM = b"text/event-stream"


@dataclass(frozen=True)
class HeldAnswer:
    """An upstream's whole answer that has not been sent on yet."""

    status: int
    headers: Headers
    body: bytes
    target: str


class Reply:
    """The answer to one request. has_ended: its last piece is being sent, or was."""

    def __init__(self, send: Send, path: str) -> None:
        self._send, self._path = send, path
        self._kind: bytes | None = None  # of what has been sent
        self._status = 0
        self._has_length = False
        self._last = b""
        self.has_ended = False

    @property
    def is_open(self) -> bool:
        """Whether it is a stream in which another upstream's answer can follow."""
        return (self._kind or b"").startswith(_STREAM) and not self._has_length

    def may_begin(self, answer: ComingAnswer) -> bool:
        """Return whether an answer can be sent as it comes: it is the first, or of the same kind."""
        same = (self._status, self._kind) == (answer.status, _kind(answer.headers))
        return self._kind is None or same

    async def begin(self, status: int, headers: Headers, target: str, reason: str) -> None:
        """Send an answer's head. In a stream that goes on, a comment says whose answer follows."""
        if self._kind is not None:
            await self.piece(self._line_end() + b": answered by " + target.encode() + b"\n\n")
            return
        self._kind, self._status = _kind(headers), status
        self._has_length = any(name == b"content-length" for name, _ in headers)
        passed = to_client(headers, target, reason)
        await self._send({"type": "http.response.start", "status": status, "headers": passed})

    async def piece(self, piece: bytes) -> None:
        """Send a piece of an answer."""
        self._last = piece[-2:]
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        """End the answer, which is whole."""
        await self._send_last(b"")

    async def whole(self, held: HeldAnswer, reason: str) -> None:
        """Send an answer at once; in a stream that has been begun, as its last event."""
        if self._kind is None:
            await self.begin(held.status, held.headers, held.target, reason)
            await self._send_last(held.body)
        else:
            await self._end_by(stream_error(held.body, self._path, self._kind))

    async def own(self, content: Any) -> None:
        """Send an answer of the router's own, as JSON."""
        body = msgspec.json.encode(content)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send_last(body)

    async def refuse(self, refusal: Refusal, code: str) -> None:
        """Send why there is no answer."""
        if self._kind is None:
            self.has_ended = True
            more = [(REASON, code.encode())] if code else []
            send = with_headers(self._send, lambda: more)
            await refuse(send, refusal, self._path)
        else:
            await self._end_by(refusal.stream_end(self._path, self._kind))

    async def break_off(self, why: str) -> None:
        """End an answer whose upstream is gone: a stream by an error, another one by cutting it short."""
        await self._end_by(Refusal(502, why).stream_end(self._path, self._kind or b""))

    async def _end_by(self, last: bytes) -> None:
        self.has_ended = True
        if last:
            await self._send_last(self._line_end() + last)

    async def _send_last(self, body: bytes) -> None:
        self.has_ended = True
        await self._send({"type": "http.response.body", "body": body})

    def _line_end(self) -> bytes:
        """Return what ends the line, and the event, that the answer broke off in."""
        if self._last == b"\n\n" or not self._last:
            return b""
        return b"\n" if self._last.endswith(b"\n") else b"\n\n"


def _kind(headers: Headers) -> bytes:
    return next((value for name, value in headers if name == b"content-type"), b"")
