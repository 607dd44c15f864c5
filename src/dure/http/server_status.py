"""What the servers on this machine are doing: each asked over HTTP for its health and its metrics.

Knows the names of dure's metrics. Refuses to know how a status is shown.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from dure.http.registry import RunningServer
from dure.processes import since_boot_s

__all__ = ["ServerStatus", "ask_server", "server_status"]

WAIT_S = 3.0


@dataclass(frozen=True)
class ServerStatus:
    """A server and its figures.

    status: "ready", or why it does not answer. tokens_per_s: of one answer, from token to token.
    kv_cache_used: from 0 to 1.
    """

    model: str
    url: str
    pid: int
    status: str
    running: int
    waiting: int
    generated_tokens: int
    tokens_per_s: float
    kv_cache_used: float
    up_s: int


def server_status(server: RunningServer) -> ServerStatus:
    """Ask a server for its status and its figures; one that does not answer has zeros."""
    status, metrics = _ask(server)
    n_following = metrics.get("dure_next_token_seconds_count", 0.0)  # of unfinished answers too
    seconds = metrics.get("dure_next_token_seconds_sum", 0.0)
    n_positions = max(1.0, metrics.get("dure_kv_positions", 0.0))
    return ServerStatus(
        model=server.model,
        url=server.url,
        pid=server.pid,
        status=status,
        running=int(metrics.get("dure_requests_running", 0)),
        waiting=int(metrics.get("dure_requests_waiting", 0)),
        generated_tokens=int(metrics.get("dure_generated_tokens_total", 0)),
        tokens_per_s=n_following / seconds if seconds else 0.0,
        kv_cache_used=metrics.get("dure_kv_positions_used", 0.0) / n_positions,
        up_s=int(since_boot_s() - server.started),
    )


def _ask(server: RunningServer) -> tuple[str, Mapping[str, float]]:
    """Return what a server says of itself: its status, and its metrics by name."""
    try:
        code, body = ask_server(server, "/health")
        if code != 200:
            return _why_not_ready(body), {}
        _, body = ask_server(server, "/metrics")
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer ({error or type(error).__name__})", {}
    return "ready", _parsed(body.decode())


def _parsed(text: str) -> dict[str, float]:
    """Return metrics by name, each summed over its labels."""
    from prometheus_client.parser import text_string_to_metric_families

    metrics: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metrics[sample.name] = metrics.get(sample.name, 0.0) + sample.value
    return metrics


def _why_not_ready(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        progress = error.get("progress")
        done = f" {progress:.0%}" if isinstance(progress, float) else ""
        return f"{error['message']}{done}"
    except (ValueError, KeyError, TypeError):
        return "not ready"


def ask_server(server: RunningServer, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Return status and body of a server's answer. body: what is posted. Raises OSError, HTTPException."""
    connection = _connection(server.url)
    try:
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(self._path)


def _connection(url: str) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"))
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port
    if host in ("0.0.0.0", "::"):  # noqa: S104  # it listens everywhere, so here too
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine
        return http.client.HTTPSConnection(host, port, timeout=WAIT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=WAIT_S)
