"""Limits one client's connection: how slow it may be, how much it may send before a request is whole.

These are the dangers below ASGI: heads that never end, clients that read nothing, connections that
are held for nothing. Refuses to know bodies and paths; the guards above do.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dure.http.guards.refusal import Refusal
from dure.http.settings import ServerSettings

__all__ = ["ConnectionConfig", "GuardedConnection"]

_LINGER_S = 5.0  # how long the rest of a body that nobody wants may come
_BODY_CREDIT = 2  # a byte of body pays for itself and for one of its chunk's frame
_RESET = struct.pack("ii", 1, 0)  # linger for 0 s
_PROBE_S = 30  # of silence, after which the system asks whether the client's machine is there


class ConnectionConfig(uvicorn.Config):
    """uvicorn's configuration, with our settings for every connection."""

    settings: ServerSettings


class GuardedConnection(HttpToolsProtocol):
    """HTTP/1.1 with deadlines.

    - more than max_connections: 503, closed
    - a head that is not whole in header_timeout_s: 408, closed; larger than max_header_bytes: 431
    - what is no HTTP: 400 as JSON, closed
    - an answer that stays unread for slow_client_timeout_s: cut off, which cancels its request
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._settings = cast("ConnectionConfig", config).settings
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._head_begun = False  # and not whole
        self._head_bytes = 0  # of whole headers
        self._raw_bytes = 0  # of the request, besides its body
        self._too_large = False

    # Called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a client that has connected."""
        super().connection_made(transport)
        _probe(transport)
        if len(self.connections) > self._settings.max_connections:
            self._refuse(Refusal(503, "too many connections: try again", 1.0, close=True))
        else:
            self._start("head", self._settings.header_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all deadlines: the connection is gone."""
        for name in list(self._timers):
            self._stop(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read bytes of requests."""
        self._raw_bytes += len(data)
        super().data_received(data)
        if self._head_begun and "head" not in self._timers:
            self._start("head", self._settings.header_timeout_s, self._head_is_late)
        if self._raw_bytes > self._settings.max_header_bytes + len(data):
            self._too_large = True
            self.send_400_response("")

    def pause_writing(self) -> None:
        """Start the deadline of a client that does not read."""
        super().pause_writing()
        self._start("unread", self._settings.slow_client_timeout_s, self._cut_off)

    def resume_writing(self) -> None:
        """Stop the deadline: the client has read."""
        self._stop("unread")
        super().resume_writing()

    # Called by the parser

    def on_message_begin(self) -> None:
        """Begin to count a request."""
        self._head_begun = True
        self._head_bytes = self._raw_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; those behind a chunked body count too."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes + len(self.url) > self._settings.max_header_bytes:
            self._too_large = True
            raise ValueError("the head is too large")  # the parser passes it on to data_received
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the deadline of the head, which is whole."""
        self._stop("head")
        self._head_begun = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count part of a body."""
        self._raw_bytes -= len(body) * _BODY_CREDIT
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the deadline of the request, which is whole."""
        self._stop("rest")
        super().on_message_complete()

    # Called by the answer

    def on_response_complete(self) -> None:
        """Close the connection after an answer if it must be closed, and soon in any case."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()
        elif self.cycle.response_complete and self.cycle.more_body:
            self._start("rest", min(_LINGER_S, self._settings.idle_timeout_s), self._close)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; a request that has begun has a deadline of its own."""
        if not self._head_begun:
            self._close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (ours says it)
        """Refuse what cannot be read as HTTP."""
        limit = self._settings.max_header_bytes
        if self._too_large:
            self._refuse(Refusal(431, f"the head is larger than {limit} bytes", close=True))
        else:
            self._refuse(Refusal(400, "this is no request of HTTP/1.1", close=True))

    # Deadlines

    def _start(self, name: str, seconds: float, action: Any) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, action)

    def _stop(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    def _head_is_late(self) -> None:
        del self._timers["head"]
        if self._is_answering():
            self._start("head", self._settings.header_timeout_s, self._head_is_late)
        elif self._head_begun:
            seconds = self._settings.header_timeout_s
            self._refuse(Refusal(408, f"no whole request came within {seconds:g} s", close=True))
        else:
            self._close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, refusal: Refusal) -> None:
        """Answer without the API, and close; an answer that is under way is cut off instead."""
        if self.transport.is_closing():
            return
        if self._is_answering() and self.cycle.response_started:
            self._cut_off()
            return
        if self._is_answering():
            self.cycle.disconnected = True  # for the API, the client is gone
            self.cycle.message_event.set()
        self.transport.write(_whole_answer(refusal))
        self._close()

    def _close(self) -> None:
        """Close once what is written has been read, and soon in any case."""
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        self._start("abort", self._settings.slow_client_timeout_s, self._cut_off)

    def _cut_off(self) -> None:
        """End the connection with a reset, so that the system keeps nothing for it either."""
        sock = self.transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


def _whole_answer(refusal: Refusal) -> bytes:
    body = refusal.body("")
    headers = [*refusal.headers(), (b"content-length", b"%d" % len(body))]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 %d Refused\r\n" % refusal.status + lines + b"\r\n" + body


def _probe(transport: asyncio.Transport) -> None:
    """Let the system notice a client whose machine is gone, also while nothing is sent."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S // 3)
