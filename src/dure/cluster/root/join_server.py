"""The root's door: open only while somebody is invited, and it answers one question, to whom shows a code.

Refuses to know how machines find it. `joining` is the other end.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, StringConstraints

from dure.cluster.root.membership import Cluster
from dure.cluster.trust.https import NodeServer
from dure.cluster.trust.invitation import RefusedError
from dure.errors import DureError

__all__ = ["door_app", "door_context", "open_door"]

CLOSE_S = 5.0


class _Wish(BaseModel):
    """What a machine says that wants to join. port: of its agent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    secret: Annotated[str, StringConstraints(max_length=64)]
    name: Annotated[str, StringConstraints(max_length=63)]
    request: Annotated[str, StringConstraints(max_length=8192)]
    port: int


def door_context(cluster: Cluster) -> ssl.SSLContext:
    """TLS for the door: its certificate is the authority itself, which the code names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*cluster.authority.files)
    return context


def door_app(cluster: Cluster, joined: Callable[[str], None]) -> FastAPI:
    """Lets in who shows a good code. joined: is told of each by name."""
    app = FastAPI(title="dure join", docs_url=None, redoc_url=None)

    @app.post("/join")
    def join_(wish: _Wish, request: Request) -> dict[str, str]:
        """Give a machine its certificate."""
        host = request.client.host if request.client else ""
        try:
            if not 0 < wish.port < 1 << 16:
                raise RefusedError(f"port {wish.port} is no port")
            certificate = cluster.join(
                wish.secret, wish.name, wish.request.encode(), host, wish.port
            )
        except DureError as error:
            cluster.events.add("refused", host=host, name=wish.name, reason=str(error))
            raise HTTPException(403, str(error)) from None
        joined(wish.name)
        return {
            "certificate": certificate.decode(),
            "authority": cluster.authority.pem.decode(),
            "cluster": cluster.name,
        }

    return app


@contextmanager
def open_door(
    cluster: Cluster, listening: socket.socket, joined: Callable[[str], None] = lambda _name: None
) -> Iterator[None]:
    """The door is open on a socket while the block runs. joined: is told of each by name."""
    server = NodeServer(door_app(cluster, joined), door_context(cluster))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()  # which leaves signals to us
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(CLOSE_S)
