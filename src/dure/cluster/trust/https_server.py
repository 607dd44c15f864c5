"""A small HTTPS server, as the cluster's machines have one each.

Knows sockets, uvicorn's settings, and that a certificate must be valid now. Refuses to know what is asked,
and who may ask: the TLS context says that.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import uvicorn
from cryptography import x509
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dure.cluster.trust.clocks import ClockError, check_dates
from dure.cluster.trust.connection import ErrorAnswer
from dure.errors import ResourceError
from dure.http.guards.asgi import App, Receive, Scope, Send
from dure.http.guards.body import WholeBody
from dure.http.guards.refusal import Refusal

__all__ = ["NodeServer", "listener"]

MOST_BODY_BYTES = 1 << 16
SILENCE_S = 60.0  # a connection that says nothing for so long is closed
LOST_S = 120.0  # a web socket that answers no ping for so long is lost
CONNECTIONS = 64
_CERTIFICATE = "dure.certificate"


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
        app: App,
        context: ssl.SSLContext,
        on_started: Callable[[], None] = lambda: None,
        most_bytes: int = MOST_BODY_BYTES,
    ) -> None:
        config = uvicorn.Config(
            _WithinDates(WholeBody(app, most_bytes, SILENCE_S, _refuse)),
            http=_CertifiedConnection,
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


class _CertifiedConnection(HttpToolsProtocol):
    """A connection whose requests know the certificate (DER) that came with it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the certificate; None if the TLS context asks for none."""
        super().connection_made(transport)
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.app_state = {**self.app_state, _CERTIFICATE: certificate}


class _WithinDates:
    """Refuses whoever's certificate is not valid now. TLS could, but not tell what this clock says."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or refuse it."""
        certificate: Any = scope.get("state", {}).get(_CERTIFICATE)
        try:
            if certificate is not None:
                check_dates(
                    x509.load_der_x509_certificate(certificate), "the root's", datetime.now(UTC)
                )
        except ClockError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            else:
                await _answer(send, 403, ErrorAnswer(str(error), error.record()))
        else:
            await self._app(scope, receive, send)


async def _refuse(send: Send, refusal: Refusal, _path: str) -> None:
    """Answer a body that is not taken as the app answers whatever it refuses."""
    await _answer(send, refusal.status, ErrorAnswer(refusal.message), *refusal.headers())


async def _answer(send: Send, status: int, record: ErrorAnswer, *more: tuple[bytes, bytes]) -> None:
    body = msgspec.json.encode(record)
    headers = [*more, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
