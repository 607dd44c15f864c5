"""A small HTTPS server, as the cluster's machines have one each.

Knows sockets and uvicorn's settings. Refuses to know what is asked, and who may ask: the TLS context says
that.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable

import msgspec
import uvicorn

from dure.cluster.trust.connection import ErrorAnswer
from dure.errors import ResourceError
from dure.http.guards.asgi import App, Send
from dure.http.guards.body import WholeBody
from dure.http.guards.refusal import Refusal

__all__ = ["NodeServer", "listener"]

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
        app: App,
        context: ssl.SSLContext,
        on_started: Callable[[], None] = lambda: None,
        most_bytes: int = MOST_BODY_BYTES,
    ) -> None:
        config = uvicorn.Config(
            WholeBody(app, most_bytes, SILENCE_S, _refuse),
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


async def _refuse(send: Send, refusal: Refusal, _path: str) -> None:
    """Answer a body that is not taken as the app answers whatever it refuses."""
    body = msgspec.json.encode(ErrorAnswer(refusal.message))
    headers = [*refusal.headers(), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
