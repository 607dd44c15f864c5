"""`dure ps`: which servers run on this machine, and what they do."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.parse
from typing import Any

from rich.table import Table

from dure.cli.terminal.console import errors, output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.http.registry import RunningServer, running_servers

__all__ = ["ps"]

WAIT_S = 3.0


def ps(as_json: Json = False) -> None:
    """List the servers that run here: their requests, their speed, and how full their KV cache is.

    Example: dure ps --json
    """
    rows = [_row(server) for server in running_servers()]
    if as_json:
        print_json(rows)
    elif not rows:
        errors.print("no server runs: `dure serve MODEL` starts one")
    else:
        output.print(_table(rows))


def _row(server: RunningServer) -> dict[str, Any]:
    status, figures = _ask(server)
    generated = figures.get("dure_generated_tokens_total", 0.0)
    followed = figures.get("dure_next_token_seconds_count", 0.0)  # also of answers that run
    seconds = figures.get("dure_next_token_seconds_sum", 0.0)
    return {
        "model": server.model,
        "url": server.url,
        "pid": server.pid,
        "status": status,
        "running": int(figures.get("dure_requests_running", 0)),
        "waiting": int(figures.get("dure_requests_waiting", 0)),
        "generated_tokens": int(generated),
        "tokens_per_s": followed / seconds if seconds else 0.0,
        "kv_cache_used": (
            figures.get("dure_kv_positions_used", 0.0)
            / max(1.0, figures.get("dure_kv_positions", 0.0))
        ),
        "up_s": int(time.time() - server.started),
    }


def _ask(server: RunningServer) -> tuple[str, dict[str, float]]:
    """What a server says of itself: its status, and its metrics by name."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        code, body = _get(server, "/health")
        if code != 200:
            return _why_not(body), {}
        _, body = _get(server, "/metrics")
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer ({error or type(error).__name__})", {}
    figures: dict[str, float] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            figures[sample.name] = figures.get(sample.name, 0.0) + sample.value
    return "ready", figures


def _why_not(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        progress = error.get("progress")
        done = f" {progress:.0%}" if isinstance(progress, float) else ""
        return f"{error['message']}{done}"
    except (ValueError, KeyError, TypeError):
        return "not ready"


def _get(server: RunningServer, path: str) -> tuple[int, bytes]:
    connection = _connection(server.url)
    try:
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        connection.request("GET", path, headers=headers)
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
    if host in ("0.0.0.0", "::"):  # noqa: S104  # it listens everywhere: also here
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this machine
        return http.client.HTTPSConnection(host, port, timeout=WAIT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=WAIT_S)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("model", "url", "status", "run", "wait", "tok/s", "KV", "up"):
        table.add_column(name, overflow="fold", no_wrap=name != "model")
    for row in rows:
        table.add_row(
            printable(row["model"]),
            printable(row["url"]),
            printable(row["status"]),
            str(row["running"]),
            str(row["waiting"]),
            f"{row['tokens_per_s']:.1f}",
            f"{row['kv_cache_used']:.0%}",
            _duration(row["up_s"]),
        )
    return table


def _duration(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
