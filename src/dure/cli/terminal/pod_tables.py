"""Pods, offers and bills as tables, sentences and JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from dure.cli.terminal.console import duration_text, printable
from dure.pods.decide import deadline_of, most_it_costs
from dure.pods.guard import GuardRound
from dure.pods.ledger import Entry, PodState
from dure.pods.money import Bill, Money
from dure.pods.provider import GpuOffer, PodStatus
from dure.pods.runpod_values import public_url

__all__ = [
    "bill_data",
    "bill_lines",
    "end_text",
    "offer_data",
    "offers_table",
    "pod_data",
    "pods_table",
    "round_data",
]


def offers_table(offers: Sequence[GpuOffer]) -> Table:
    """Return what can be rented, a row each."""
    table = Table("GPU", box=None, pad_edge=False)
    for heading in ("memory", "secure", "community"):
        table.add_column(heading, justify="right")
    table.add_column("to be had")
    for offer in offers:
        table.add_row(
            printable(offer.id),
            f"{offer.memory} GB",
            *("" if price is None else f"{price}/h" for price in (offer.secure, offer.community)),
            printable(offer.availability.lower()),
        )
    return table


def offer_data(offer: GpuOffer) -> dict[str, Any]:
    """Return an offer as data; prices in dollars per hour."""
    return {
        "id": offer.id,
        "name": offer.name,
        "memory_gb": offer.memory,
        "secure": offer.secure.dollars if offer.secure else None,
        "community": offer.community.dollars if offer.community else None,
        "availability": offer.availability,
    }


def bill_lines(bill: Bill, network: str = "") -> list[str]:
    """Return the bill that is shown before a pod is made. network: the volume's name."""
    month = bill.disks.network_month
    left = f"{month} a month for the network volume {network}" if network else "nothing is left"
    return [
        f"running             {bill.hourly} an hour ({bill.gpu} GPU, {bill.disks.running} disks)",
        f"forgotten overnight {bill.overnight} in 10 hours, if nothing ended it",
        f"stopped for a month {bill.disks.stopped_month} for its volume",
        f"terminated          {left}",
        f"at most             {bill.at_most}: guards end it after {duration_text(bill.runs_s)}",
    ]


def bill_data(bill: Bill) -> dict[str, Any]:
    """Return the bill as data, in dollars and seconds."""
    return {
        "hourly": bill.hourly.dollars,
        "overnight": bill.overnight.dollars,
        "stopped_for_a_month": bill.disks.stopped_month.dollars,
        "terminated_for_a_month": bill.disks.network_month.dollars,
        "at_most": bill.at_most.dollars,
        "runs_s": bill.runs_s,
    }


def _end(entry: Entry, *, home_is_armed: bool) -> tuple[float, Money] | None:
    """Return when a running pod ends at the latest and what it costs by then; None if nothing ends it.

    Only guards that were checked count, and the sooner of both.
    """
    ends = [(deadline_of(entry), most_it_costs(entry))] if home_is_armed else []
    if entry.armed_at:
        left_s = entry.dies_at - entry.seen_at
        ends.append((entry.dies_at, entry.spent + entry.hourly.over(left_s)))
    return min(ends, default=None)


def end_text(entry: Entry, *, home_is_armed: bool) -> str:
    """Return when a pod ends and what it costs by then; it is promised only if a guard was checked."""
    if entry.state is PodState.INTENDED:
        return "asked for, and not seen yet"
    if entry.state.is_over:
        return f"cost {entry.spent}"
    if entry.status == PodStatus.EXITED:
        until = f"ends at {entry.limits.max_spend}"
        return until if home_is_armed else f"{until} by `dure pod guard` alone, which does not run"
    end = _end(entry, home_is_armed=home_is_armed)
    if end is None:
        return "NO GUARD IS ARMED: nothing ends it"
    dies_at = datetime.fromtimestamp(end[0]).astimezone()
    far = end[0] - time.time() > 12 * 3600
    when = f"{dies_at:%a %H:%M}" if far else f"{dies_at:%H:%M}"
    return f"dies at {when} at the latest, {end[1]} at most"


def _guards_text(entry: Entry, *, home_is_armed: bool) -> str:
    armed = [
        name for name, is_armed in (("pod", entry.armed_at), ("home", home_is_armed)) if is_armed
    ]
    return "+".join(armed) or "none"


def pods_table(entries: Sequence[Entry], *, home_is_armed: bool) -> Table:
    """Return pods, a row each."""
    table = Table("pod", "state", "GPU", box=None, pad_edge=False)
    for heading in ("an hour", "so far"):
        table.add_column(heading, justify="right")
    table.add_column("guards")
    table.add_column("end")
    table.columns[0].no_wrap = True
    for entry in entries:
        is_over = entry.state.is_over
        table.add_row(
            printable(entry.name),
            printable(entry.state if is_over or not entry.status else entry.status.lower()),
            printable(entry.gpu if entry.gpus == 1 else f"{entry.gpus} of {entry.gpu}"),
            "" if is_over else str(entry.hourly),
            str(entry.spent),
            "" if is_over else _guards_text(entry, home_is_armed=home_is_armed),
            end_text(entry, home_is_armed=home_is_armed),
        )
    return table


def pod_data(entry: Entry, *, home_is_armed: bool) -> dict[str, Any]:
    """Return a pod as data; money in dollars, times in ISO 8601."""
    runs = entry.state is PodState.LIVE and entry.status != PodStatus.EXITED
    end = _end(entry, home_is_armed=home_is_armed) if runs else None
    return {
        "name": entry.name,
        "label": entry.label,
        "id": entry.pod_id,
        "state": entry.state,
        "status": entry.status,
        "wanted": entry.wanted,
        "template": entry.template,
        "gpu": entry.gpu,
        "gpus": entry.gpus,
        "cloud": entry.cloud,
        "hourly": entry.hourly.dollars,
        "spent": entry.spent.dollars,
        "max_spend": entry.limits.max_spend.dollars,
        "at_most": end[1].dollars if end else None,
        "dies_at": _iso(end[0]) if end else None,
        "guard_in_pod": _iso(entry.armed_at) if entry.armed_at else None,
        "guard_at_home": home_is_armed,
        "ssh": f"dure-{entry.name}" if entry.door_port else None,
        "hf_token": entry.awaits_token,
        "network_volume": entry.network_volume or None,
        "public": public_url(entry.pod_id, entry.public_port) if entry.public_port else None,
        "key_file": entry.key_file or None,
        "note": entry.note,
    }


def round_data(done: GuardRound) -> dict[str, Any]:
    """Return a guard's round as data."""
    return {
        "at": _iso(done.at),
        "is_well": done.is_well,
        "pods": [
            {"name": o.name, "act": o.act, "reason": o.reason, "problem": o.problem, "cure": o.cure}
            for o in done.outcomes
        ],
        "strangers": [pod.name for pod in done.strangers],
        "problems": done.problems,
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
