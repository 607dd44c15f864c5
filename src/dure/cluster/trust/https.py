"""HTTPS as the cluster's machines speak it among themselves: a small server, and one question to it.

Knows TLS sockets and JSON. Refuses to know what is asked, and who may.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dure.errors import ClusterError, ResourceError

__all__ = ["Line", "NodeServer", "SmallBodies", "UnreachableError", "ask", "listener"]

MOST_BODY_BYTES = 1 << 16
SILENCE_S = 60.0  # a connection that says nothing for so long is closed
LOST_S = 120.0  # a line that says nothing for so long is lost
CONNECTIONS = 64


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ResourceError where the address is taken or is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(CONNECTIONS)
    except OSError as error:
        found.close()
        raise ResourceError(
            f"cannot listen on {host}:{port} ({error.strerror}): say another --port, or end what "
            "listens there"
        ) from error
    return found


class UnreachableError(ClusterError):
    """Nobody answers there, or the line broke: it may be better in a moment."""


class NodeServer(uvicorn.Server):
    """An ASGI app behind TLS. on_started: is called once it answers. most_bytes: of a request's body."""

    def __init__(
        self,
        app: ASGIApp,
        context: ssl.SSLContext,
        on_started: Callable[[], None] = lambda: None,
        most_bytes: int = MOST_BODY_BYTES,
    ) -> None:
        config = uvicorn.Config(
            SmallBodies(app, most_bytes),
            ws="websockets-sansio",
            ws_max_size=most_bytes,
            ws_ping_interval=20.0,
            ws_ping_timeout=LOST_S,
            ws_per_message_deflate=False,
            lifespan="auto",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=int(SILENCE_S),
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # strangers are no errors
        config.load()
        config.ssl = context
        self._on_started = on_started
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._on_started()


class SmallBodies:
    """Lets no body through that is larger than any question is, or that comes too slowly."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._body(receive)
        if body is None:
            await _refuse(send)
            return
        told = False

        async def whole() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, whole, send)

    async def _body(self, receive: Receive) -> bytes | None:
        body = bytearray()
        try:
            async with asyncio.timeout(SILENCE_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self._most:
                        return None
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            return None


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send(
        {"type": "http.response.body", "body": b'{"detail": "the body is too large or slow"}'}
    )


# ---------------------------------------------------------------- asking


class _Connection(http.client.HTTPSConnection):
    """To an address, but for a certificate of another name: nodes have names, not addresses."""

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext, name: str, timeout_s: float
    ) -> None:
        super().__init__(host, port, context=context, timeout=timeout_s)
        self._tls, self._name = context, name

    def connect(self) -> None:
        """Connect, and have TLS look at the certificate."""
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise


class Line:
    """A connection to one machine that is kept between questions. Not thread-safe; `close` it.

    name: whom its certificate must name, where the context looks. check: gets the certificate (DER)
    before anything is sent. if_silent: the cure where nothing listens.
    """

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        name: str,
        *,
        timeout_s: float = 10.0,
        check: Callable[[bytes], None] = lambda _: None,
        if_silent: str = "start `dure node` on it",
    ) -> None:
        self._connection = _Connection(*address, context, name, timeout_s)
        self._check, self._if_silent = check, if_silent
        self._where = f"{name} at {address[0]}:{address[1]}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON that it answers. body: bytes as they are, anything else as JSON.

        Raises ClusterError, and what the check raises; UnreachableError, and the next question begins
        with a new connection, where the line is the problem.
        """
        try:
            return self._ask(method, path, body, headers)
        except BaseException:
            self._connection.close()
            raise

    def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        connection, where = self._connection, self._where
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        try:
            if connection.sock is None:
                connection.connect()
                self._check(_peer_certificate(connection.sock))
            connection.request(method, path, data, {"content-type": kind, **headers})
            answer = connection.getresponse()
            text = answer.read()
        except ssl.SSLCertVerificationError as error:
            raise ClusterError(
                f"{where} is not who it should be ({error.verify_message}): join it again, and look "
                "at who has that address"
            ) from error
        except ssl.SSLEOFError as error:
            raise UnreachableError(f"{where} does not answer: the line broke") from error
        except ssl.SSLError as error:
            raise ClusterError(
                f"{where} does not let this machine in ({error.reason or error}): was it removed, or "
                "is it another cluster's?"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = _reason(error, self._if_silent)
            raise UnreachableError(f"{where} does not answer: {reason}") from error
        return _decoded(where, answer.status, text)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


def ask(
    address: tuple[str, int],
    context: ssl.SSLContext,
    name: str,
    method: str,
    path: str,
    body: Any = None,
    **more: Any,
) -> Any:
    """One question on a `Line` of its own, with its arguments and errors."""
    line = Line(address, context, name, **more)
    try:
        return line.ask(method, path, body)
    finally:
        line.close()


def _peer_certificate(sock: socket.socket | None) -> bytes:
    """The certificate (DER) at the other end of a TLS socket."""
    assert isinstance(sock, ssl.SSLSocket), "connected"
    return sock.getpeercert(binary_form=True) or b""


def _decoded(where: str, status: int, text: bytes) -> Any:
    try:
        decoded = json.loads(text)
    except ValueError:
        decoded = None
    if status == 200 and decoded is not None:
        return decoded
    told = decoded.get("detail") if isinstance(decoded, dict) else None
    raise ClusterError(f"{where} refuses: {told or f'HTTP status {status}'}")


def _reason(error: Exception, if_silent: str) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time: is it on, and on this network?"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens there: {if_silent}"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
