"""How a cluster is, as tables for a person."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.table import Table

from dure.cli.terminal.console import duration_text, errors, printable
from dure.cluster.root.node_status import ClusterStatus, NodeStatus
from dure.cluster.root.speeds import MachineSpeeds, TypeSpeed
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.sizes import bytes_text

__all__ = ["print_limits", "speed_table", "status_table"]

_RIGHT = {"last share", "speed", "cores", "free memory", "load", "°C", "MHz", "W"}


def print_limits(machines: Sequence[NodeStatus]) -> None:
    """Say what of a machine's container or service gives dure less than the machine has."""
    for machine in machines:
        limits = machine.platform.limits if machine.platform else ()
        if limits:
            text = f"{shown_name(machine.name)} is held to {', '.join(limits)}"
            errors.print(printable(text), markup=False, soft_wrap=True)


def status_table(cluster: str, here: NodeStatus, now: ClusterStatus) -> Table:
    """Return the root and every node, a row each. here: the root."""
    table = Table(f"node of {printable(cluster)}", box=None, pad_edge=False)
    shares = now.shares
    for heading in (
        *("address", "state", "used by", "last share", "speed", "machine", "cores"),
        *("free memory", "load", "°C", "MHz", "W"),
    ):
        table.add_column(heading, justify="right" if heading in _RIGHT else "left")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for node in [here, *now.nodes]:
        address = "here" if node.name == ROOT_NAME else f"{node.host}:{node.port}"
        health, machine = node.health, node.platform
        if machine is None or health is None:
            table.add_row(shown_name(node.name), address, "does not answer")
            continue
        table.add_row(
            shown_name(node.name),
            address,
            ", ".join(health.throttled) or "well",
            printable(", ".join(f"{job.command} {job.model}" for job in node.jobs)),
            f"{shares[node.name]:.0%}" if node.name in shares else "",
            _speed(now.speeds.get(node.name, {})),
            printable(", ".join((machine.architecture, machine.processor, *machine.gpus))),
            str(machine.cores),
            f"{bytes_text(health.available_bytes)} of {bytes_text(machine.memory_bytes)}",
            f"{health.load:.1f}",
            "" if health.temperature_c is None else f"{health.temperature_c:.0f}",
            "" if health.clock_mhz is None else f"{health.clock_mhz:.0f}",
            "" if health.power.watts is None else f"{health.power.watts:.1f}",
        )
    return table


def _speed(types: Mapping[str, TypeSpeed]) -> str:
    """Return a machine's speed with the type that was measured last, its spread, and how old it is."""
    if not types:
        return ""
    name, speed = max(types.items(), key=lambda item: item[1].measured or 0.0)
    facts = [name]
    if speed.corrected:
        facts.append("corrected")
    elif speed.samples > 1:
        facts.append(f"±{speed.spread:.0%}")
    if speed.measured is not None:
        facts.append(f"{duration_text(max(0.0, time.time() - speed.measured))} ago")
    return f"{speed.decode_bytes_per_s / 1e9:.1f} GB/s ({', '.join(facts)})"


def speed_table(rows: list[MachineSpeeds], types: list[str]) -> Table:
    """Return the speeds of every machine with these types, and of its link."""
    table = Table("machine", box=None, pad_edge=False)
    for heading in (*(f"{name}, GB/s" for name in types), "round trip, µs", "link, MB/s"):
        table.add_column(heading, justify="right")
    for row in rows:
        speeds = [
            f"{row.types[name].decode_bytes_per_s / 1e9:.1f}" if name in row.types else ""
            for name in types
        ]
        table.add_row(
            shown_name(row.name),
            *speeds,
            "" if row.round_trip_s is None else f"{row.round_trip_s * 1e6:.0f}",
            "" if row.link_bytes_per_s is None else f"{row.link_bytes_per_s / 1e6:.0f}",
        )
    return table
