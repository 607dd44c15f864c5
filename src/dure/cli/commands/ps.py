"""`dure ps`: shows which servers run on this machine, and what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from dure.cli.terminal.console import duration_text, errors, output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.http.registry import PAGE, running_servers
from dure.http.server_status import ServerStatus, server_status

__all__ = ["ps"]


def ps(as_json: Json = False) -> None:
    """List the servers that run here: their requests, their speed, and how full their KV cache is.

    Example: dure ps --json
    """
    servers = [server_status(server) for server in running_servers() if server.model != PAGE]
    if as_json:
        print_json([asdict(server) for server in servers])
    elif not servers:
        errors.print("no server runs: `dure serve MODEL` starts one")
    else:
        output.print(_table(servers))


def _table(servers: Sequence[ServerStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("model", "url", "status", "run", "wait", "tok/s", "KV", "up"):
        table.add_column(name, overflow="fold", no_wrap=name != "model")
    for server in servers:
        table.add_row(
            printable(server.model),
            printable(server.url),
            printable(server.status),
            str(server.running),
            str(server.waiting),
            f"{server.tokens_per_s:.1f}",
            f"{server.kv_cache_used:.0%}",
            duration_text(server.up_s),
        )
    return table
