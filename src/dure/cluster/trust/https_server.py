"""A small HTTPS server, as the cluster's machines have one each.

Knows sockets and uvicorn's settings. Refuses to know what is asked, and who may ask: the TLS context says
that.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dure.errors import ResourceError

__all__ = ["NodeServer", "SmallBodies", "listener"]

MOST_BODY_BYTES = 1 << 16
SILENCE_S = 60.0  # a connection that says nothing for so long is closed
LOST_S = 120.0  # a web socket that answers no ping for so long is lost
CONNECTIONS = 64


def listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises ResourceError if the address is taken or is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(CONNECTIONS)
    except OSError as error:
        listening.close()
        raise ResourceError(
            f"cannot listen on {host}:{port} ({error.strerror})",
            "say another --port, or end what listens there",
        ) from error
    return listening


class NodeServer(uvicorn.Server):
    """Serve an ASGI app behind TLS.

    on_started: is called once the server answers. most_bytes: the limit of a request's body.
    """

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
