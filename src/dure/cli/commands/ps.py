"""`dure ps`: shows which servers run on this machine, what they do, and which models are worked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from dure.cli.terminal.console import duration_text, errors, output, print_json, printable
from dure.cli.terminal.parameters import Json
from dure.http.registry import PAGE, running_servers
from dure.http.server_status import ServerStatus, server_status
from dure.sizes import bytes_text
from dure.work_notes import WorkNote, noted_work, work_facts

__all__ = ["ps"]


def ps(as_json: Json = False) -> None:
    """List the servers that run here and what they do, and running work on models.

    Of a server: its requests, its speed, and how full its KV cache is. Of work, such as a pull or a cut:
    its phase, how far and how fast it is, how long it takes still, and for a minute how it ended.

    Example: dure ps --json
    """
    servers = [server_status(server) for server in running_servers() if server.model != PAGE]
    work = noted_work()
    if as_json:
        rows = [asdict(server) for server in servers]
        print_json({"servers": rows, "work": [work_facts(one) for one in work]})
        return
    if servers:
        output.print(_servers_table(servers))
    else:
        errors.print("no server runs: `dure serve MODEL` starts one")
    if servers and work:
        output.print()
    if work:
        output.print(_work_table(work))


def _servers_table(servers: Sequence[ServerStatus]) -> Table:
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


def _work_table(work: Sequence[WorkNote]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("work", "model", "state", "done", "speed", "left", "pid"):
        table.add_column(name, overflow="fold", no_wrap=name != "model")
    for one in work:
        is_running = one.state == "running"
        table.add_row(
            one.kind,
            printable(one.name),
            printable((one.phase or "running") if is_running else one.state),
            _done(one),
            _speed(one) if is_running else "",
            duration_text(one.rest_s) if one.rest_s is not None else "",
            str(one.pid),
        )
    return table


def _done(work: WorkNote) -> str:
    if work.error:
        return printable(work.error)
    if work.done is None or work.state == "done":
        return ""
    if work.unit == "part":
        return f"{work.fraction:.0%}" if work.fraction is not None else ""
    of = f" of {_amount(work, work.total)}" if work.total else ""
    learned = work.losses.learned if work.losses else ()
    return f"{_amount(work, work.done)}{of}" + (f", loss {learned[-1][1]:g}" if learned else "")


def _speed(work: WorkNote) -> str:
    if work.per_s is None or work.unit == "part":
        return ""
    if work.unit == "steps":
        is_slow = work.per_s < 1
        return f"{1 / work.per_s:.1f} s a step" if is_slow else f"{work.per_s:.1f} steps/s"
    return f"{_amount(work, work.per_s)}/s"


def _amount(work: WorkNote, amount: float | None) -> str:
    shown = round(amount or 0)
    return bytes_text(shown) if work.unit == "bytes" else f"{shown:,} {work.unit}"
