"""Prints what the machines of a cluster would hold of a model. Refuses to find that out."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from dure.cli.terminal.console import output, printable
from dure.cluster.trust.identity import shown_name
from dure.sizes import bytes_text, compared

__all__ = ["print_forecast"]


def print_forecast(cluster: dict[str, Any]) -> None:
    """Write what the cluster's machines would hold. cluster: a `Forecast` as plain data."""
    output.print()
    if cluster["problem"]:
        output.print(f"on the cluster: {printable(cluster['problem'])}", soft_wrap=True)
    else:
        output.print(_table(cluster["machines"]))
    for one in cluster["machines"]:
        if one["disk"]:
            output.print(printable(one["disk"]), soft_wrap=True)
        if one["gpu"]:
            output.print(f"{shown_name(one['name'])}: {printable(one['gpu'])}", soft_wrap=True)
    for name, reason in cluster["left_out"].items():
        output.print(f"{shown_name(name)} would take no part: {printable(reason)}", soft_wrap=True)
    if guessed := ", ".join(map(shown_name, cluster["guessed"])):
        output.print(f"not measured, so taken to be as fast as others: {guessed}", soft_wrap=True)


def _table(machines: list[dict[str, Any]]) -> Table:
    table = Table("machine", box=None, pad_edge=False)
    for heading in ("share", "weights", "memory", "free", ""):
        table.add_column(heading, justify="right")
    for one in machines:
        takes, free = bytes_text(one["memory_bytes"]), bytes_text(one["free_bytes"])
        if not one["fits"]:
            takes, free = compared(one["memory_bytes"], one["free_bytes"])
        weights = bytes_text(one["weights_bytes"])
        table.add_row(
            shown_name(one["name"]), f"{one['share']:.0%}", weights, takes, free, _fits(one)
        )
    return table


def _fits(machine: dict[str, Any]) -> str:
    lacking = [] if machine["fits"] else ["too little memory"]
    lacking += ["no room on its disk"] if machine["disk"] else []
    return ", ".join(lacking) or "fits"
