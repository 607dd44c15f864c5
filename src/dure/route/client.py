"""Speaks HTTP/1.1 to an upstream: kept connections, bodies as they come, an end at any moment.

A proxy needs little of HTTP, and needs it quickly: this takes a twentieth of a whole client's time for a
request (docs/LOG.md). Refuses to know what is sent, and when to try again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Protocol
from urllib.parse import urlsplit

import httptools

from dure.http.guards.asgi import Headers, Scope

__all__ = ["Client", "ComingAnswer", "HttpClient", "UpstreamAnswer", "UpstreamError"]

_MOST_WAITING_BYTES = 256 * 1024  # of an answer that its reader has not taken yet
_MOST_IDLE = 64
_IDLE_S = 4.0  # many servers close a connection that idles for 5 s
_STALE_S = 1.0  # one that idled for less was not closed for idling
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)  # X509_V_ERR_*: self-signed, or no issuer is known
_SETTLE_S = 0.1  # after a stream: llama-server says keep-alive, and closes the connection at once


class UpstreamError(Exception):
    """An upstream cannot be reached, or its answer broke off. The text never holds what was sent.

    stale: it closed the connection before it sent anything, as servers do with connections that idle.
    unreachable: nobody listens there.
    """

    def __init__(self, text: str, *, stale: bool = False, unreachable: bool = False) -> None:
        super().__init__(text)
        self.stale, self.unreachable = stale, unreachable


class ComingAnswer(Protocol):
    """An answer that is coming: its status and headers, then its body piece by piece."""

    @property
    def status(self) -> int:
        """The status of the answer."""

    @property
    def headers(self) -> Headers:
        """The headers, names in lower case."""

    async def piece(self) -> bytes:
        """Return what has come since, b"" at the end. Raises UpstreamError if it broke off."""

    async def body(self) -> bytes:
        """Return the whole body. Raises UpstreamError if it broke off."""

    def abort(self) -> None:
        """End the answer: the upstream sees that nobody wants it any more."""


class Client(Protocol):
    """The way to an upstream."""

    async def send(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        caller: Scope | None = None,
    ) -> ComingAnswer:
        """Return the answer, once its head has come. headers: without host and length.

        caller: the request that asks for it, for a server that knows whose it is. Raises UpstreamError.
        """

    def close(self) -> None:
        """Close the connections that nobody uses."""


class HttpClient:
    """Connections to one upstream."""

    def __init__(
        self, url: str, *, ca_file: str | None, connect_s: float, silence_s: float
    ) -> None:
        parts = urlsplit(url)
        self._unix = parts.path if parts.scheme == "unix" else ""
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        self._path = "" if self._unix else parts.path.rstrip("/")
        self._netloc = parts.netloc.rpartition("@")[2] or "localhost"
        self._connect_s, self._silence_s = connect_s, silence_s
        self._idle: deque[tuple[float, _Connection]] = deque()

    async def send(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        caller: Scope | None = None,  # noqa: ARG002 (it gets no more than the headers)
    ) -> UpstreamAnswer:
        """Return the answer, once its head has come. headers: without host and length.

        Raises UpstreamError. A kept connection that the upstream closed meanwhile is replaced once.
        """
        head = self._head(method, path, headers, len(body))
        if (kept := self._kept()) is not None:
            idle_s, connection = kept
            try:
                return await self._exchange(connection, head + body)
            except UpstreamError as error:
                if not error.stale or idle_s < _STALE_S:
                    raise
        return await self._exchange(await self._connect(), head + body)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop()[1].close()

    def _head(self, method: str, path: str, headers: Headers, length: int) -> bytes:
        start = f"{method} {self._path}{path} HTTP/1.1\r\nhost: {self._netloc}"
        lines = [start.encode("latin-1", "replace")]
        lines += [name + b": " + value for name, value in headers]
        if length or method == "POST":
            lines.append(b"content-length: %d" % length)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _exchange(self, connection: _Connection, data: bytes) -> UpstreamAnswer:
        answer = UpstreamAnswer(self, connection, self._silence_s)
        try:
            connection.write(data)
            await answer.head()
        except BaseException:
            connection.close()
            raise
        return answer

    def _kept(self) -> tuple[float, _Connection] | None:
        """Return a connection that is open still, and for how long it has idled."""
        now_s = asyncio.get_running_loop().time()
        unsettled = list[tuple[float, _Connection]]()
        found = None
        while self._idle and found is None:
            since, connection = self._idle.pop()
            idle_s = now_s - since
            if idle_s > _IDLE_S or not connection.is_open:
                connection.close()
            elif connection.has_streamed and idle_s < _SETTLE_S:
                unsettled.append((since, connection))
            else:
                found = idle_s, connection
        self._idle.extend(reversed(unsettled))
        return found

    def keep(self, connection: _Connection) -> None:
        """Keep a connection whose answer has ended for the next request."""
        if len(self._idle) >= _MOST_IDLE:
            self._idle.popleft()[1].close()
        self._idle.append((asyncio.get_running_loop().time(), connection))

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                if self._unix:
                    _, connection = await loop.create_unix_connection(_Connection, self._unix)
                else:
                    _, connection = await loop.create_connection(
                        _Connection, self._host, self._port, ssl=self._tls
                    )
        except TimeoutError:
            raise UpstreamError(
                f"does not answer within {self._connect_s:g} s", unreachable=True
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise UpstreamError(_refusal_of(error), unreachable=True) from None
        except ssl.SSLError as error:
            raise UpstreamError(f"its TLS is refused: {error.reason}", unreachable=True) from None
        except OSError as error:
            text = error.strerror or "no address of its name answers"
            raise UpstreamError(f"cannot be reached: {text}", unreachable=True) from None
        return connection


def _refusal_of(error: ssl.SSLCertVerificationError) -> str:
    """Return why a certificate is refused, and what helps if only its authority is not known."""
    hint = "; name its authority in ca-file" if error.verify_code in _UNKNOWN_AUTHORITY else ""
    return f"its certificate is refused: {error.verify_message.rstrip('.')}{hint}"


class UpstreamAnswer:
    """An answer that is coming: its status and headers, then its body piece by piece."""

    def __init__(self, client: HttpClient, connection: _Connection, silence_s: float) -> None:
        self._client, self._connection, self._silence_s = client, connection, silence_s
        self._has_ended = False

    @property
    def status(self) -> int:
        """The status of the answer."""
        return self._connection.status

    @property
    def headers(self) -> Headers:
        """The headers, names in lower case."""
        return self._connection.headers

    async def head(self) -> None:
        """Wait for the head."""
        await self._connection.wait_head(self._silence_s)

    async def piece(self) -> bytes:
        """Return what has come since, b"" at the end. Raises UpstreamError if it broke off."""
        data = b"" if self._has_ended else await self._connection.wait_body(self._silence_s)
        if not data and not self._has_ended:
            self._has_ended = True
            self._release()
        return data

    async def body(self) -> bytes:
        """Return the whole body."""
        pieces = []
        try:
            while piece := await self.piece():
                pieces.append(piece)
        except BaseException:
            self.abort()
            raise
        return b"".join(pieces)

    def abort(self) -> None:
        """End the answer: the upstream sees that nobody wants it any more. One that has ended stays so."""
        if not self._has_ended:  # its connection may have another one by now
            self._connection.close()

    def _release(self) -> None:
        if self._connection.may_be_kept:
            self._client.keep(self._connection)
        else:
            self._connection.close()


class _Connection(asyncio.Protocol):
    """One connection, with one answer at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._broken = ""
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.headers = 0, list[tuple[bytes, bytes]]()
        self._pieces: list[bytes] = []
        self._n_waiting = 0
        self._has_head = self._is_complete = self._is_paused = self._got_bytes = False
        self.may_be_kept = False

    @property
    def has_streamed(self) -> bool:
        """Whether the length of its answer was not known at the beginning."""
        return any(name == b"transfer-encoding" for name, _ in self.headers)

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send a request."""
        self._begin()
        assert self._transport is not None, "it is connected"
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection; who waits for its answer gets an error."""
        self._end("was given up")
        if self._transport is not None:
            self._transport.abort()

    async def wait_head(self, seconds: float) -> None:
        """Wait until status and headers are known. Raises UpstreamError."""
        while not self._has_head:
            await self._wait(seconds)

    async def wait_body(self, seconds: float) -> bytes:
        """Return what has come of the body, b"" at its end. Raises UpstreamError."""
        while not self._pieces:
            if self._is_complete:
                return b""
            await self._wait(seconds)
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._n_waiting = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    async def _wait(self, seconds: float) -> None:
        if self._broken:
            raise UpstreamError(self._broken, stale=self._is_closed and not self._got_bytes)
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._end, f"sent nothing for {seconds:g} s")
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, why: str) -> None:
        self._broken = self._broken or why
        self._wake()

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # it is a stream's

    def data_received(self, data: bytes) -> None:
        self._got_bytes = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end("wants another protocol")
        except httptools.HttpParserError:
            self._end("sent what is no HTTP")
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._has_head and not self._is_complete and self._reads_to_end():
            self._is_complete = True
        self._is_closed = not self._broken
        self._end("closed the connection")

    def _reads_to_end(self) -> bool:
        """Return whether the body ends with the connection."""
        framing = (b"content-length", b"transfer-encoding")
        return not any(name in framing for name, _ in self.headers)

    # Called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # 100 Continue, 103 Early Hints
            self.headers.clear()
            return
        self.status, self._has_head = self._parser.get_status_code(), True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._n_waiting += len(body)
        if self._n_waiting > _MOST_WAITING_BYTES and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._has_head:
            self._is_complete = True
            self.may_be_kept = self.is_open and self._parser.should_keep_alive()
