"""The join server: it runs only while somebody is invited, and gives a certificate to whom shows a code.

Refuses to know how machines find it. `dure.cluster.trust.joining` is the other end.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response

from dure.cluster.root.membership import Cluster
from dure.cluster.trust.connection import ErrorAnswer
from dure.cluster.trust.https_server import NodeServer
from dure.cluster.trust.invitation import CodeRefusedError
from dure.cluster.trust.joining import JOIN_PATH, JoinAnswer, JoinRequest
from dure.cluster.trust.record_routes import RecordApp, answer, body_as, described
from dure.errors import DureError

__all__ = ["join_app", "join_context", "running_join_server"]

CLOSE_S = 5.0
_REFUSALS = {400: "it makes no sense", 403: "it may not join"}
JoinBody = Annotated[JoinRequest, Depends(body_as(JoinRequest))]


def join_context(cluster: Cluster) -> ssl.SSLContext:
    """Return the TLS context of the join server: its certificate is the authority, which codes name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*cluster.authority.files)
    return context


def join_app(cluster: Cluster, joined: Callable[[str], None]) -> FastAPI:
    """Return the app that lets in who shows a good code. joined: gets the name of each."""
    app = RecordApp("dure join", (JoinRequest, JoinAnswer))

    @app.post(JOIN_PATH, **described(JoinAnswer, takes=JoinRequest, refuses=_REFUSALS))
    def join_(asked: JoinBody, request: Request) -> Response:
        """Give a machine its certificate."""
        host = request.client.host if request.client else ""
        try:
            taken_in = _taken_in(cluster, asked, host)
        except DureError as error:
            cluster.events.add("refused", host=host, name=asked.name, reason=str(error))
            return answer(ErrorAnswer(str(error), error.record()), 403)
        joined(asked.name)
        return answer(taken_in)

    return app


def _taken_in(cluster: Cluster, asked: JoinRequest, host: str) -> JoinAnswer:
    if not 0 < asked.port < 1 << 16:
        raise CodeRefusedError(f"port {asked.port} is no port")
    request = asked.request.encode()
    certificate = cluster.join(asked.secret, asked.name, request, host, asked.port)
    return JoinAnswer(certificate.decode(), cluster.authority.pem.decode(), cluster.name)


@contextmanager
def running_join_server(
    cluster: Cluster, listening: socket.socket, joined: Callable[[str], None] = lambda _name: None
) -> Iterator[None]:
    """Run the join server on a socket while the block runs. joined: gets the name of each that joins."""
    server = NodeServer(join_app(cluster, joined), join_context(cluster))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()  # which leaves signals to us
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(CLOSE_S)
