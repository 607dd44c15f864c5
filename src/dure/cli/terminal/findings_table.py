"""What a doctor found, as a table for a person, and what to do about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dure.cli.terminal.console import output, printable
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.doctor.finding import NEEDS_ROOT, Finding, Severity

__all__ = ["finding_data", "print_findings"]

_ORDER = (Severity.SERIOUS, Severity.WARNING, Severity.NOTE, Severity.UNREADABLE, Severity.HEALTHY)
_STYLES = {
    Severity.SERIOUS: "bold red",
    Severity.WARNING: "yellow",
    Severity.NOTE: "cyan",
    Severity.UNREADABLE: "dim",
    Severity.HEALTHY: "green",
}


def finding_data(found: Finding) -> dict[str, Any]:
    """Return a finding as JSON has it."""
    data = asdict(found)
    data["can_fix"] = bool(data.pop("fix"))
    return data


def print_findings(findings: Sequence[Finding], *, show_all: bool) -> None:
    """Print what was found, the worst first, then why it matters and what cures it.

    show_all: what is healthy too.
    """
    ordered = sorted(findings, key=lambda one: _ORDER.index(one.severity))
    shown = [one for one in ordered if show_all or one.severity is not Severity.HEALTHY]
    if shown:
        output.print(_table(shown))
    for some in _to_explain(shown):
        output.print()
        _explain(some)
    output.print("\n" * bool(shown) + _summary(findings))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    several = any(one.machine for one in findings)
    narrow = ("state", *(("machine",) if several else ()), "about")
    for heading in (*narrow, "what was found", "evidence"):
        table.add_column(heading, overflow="fold", no_wrap=heading in narrow)
    for one in findings:
        state = Text(one.severity, style=_STYLES[one.severity])
        machine = [shown_name(one.machine)] if several else []
        table.add_row(state, *machine, one.subject, printable(one.what), printable(one.evidence))
    return table


def _to_explain(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Return the findings that have a cure, those of one kind together; the unreadable say all in a row."""
    kinds = defaultdict[tuple[str, str], list[Finding]](list)
    for one in findings:
        if one.cure and one.severity is not Severity.UNREADABLE:
            kinds[one.what, one.cure].append(one)
    return list(kinds.values())


def _explain(some: Sequence[Finding]) -> None:
    """Print why findings of one kind matter, and what cures them."""
    one, machines = some[0], [shown_name(each.machine) for each in some if each.machine]
    on = f" ({', '.join(dict.fromkeys(machines))})" if machines else ""
    output.print(Text(f"{one.subject}: {printable(one.what)}{on}", style="bold"))
    _print_indented(one.why)
    there = "" if one.machine in {"", ROOT_NAME} else " on that machine"
    by_itself = f" (`dure doctor --fix`{there} can do it)" if one.fix else ""
    _print_indented(f"Cure: {printable(one.cure)}{by_itself}")


def _print_indented(text: str) -> None:
    output.print(Padding(Text(text), (0, 0, 0, 2), expand=False))


def _summary(findings: Sequence[Finding]) -> str:
    n = Counter(one.severity for one in findings)
    counted = [f"{n[one]} {one}" for one in _ORDER if n[one]]
    more = f"; {NEEDS_ROOT}" if any(one.cure == NEEDS_ROOT for one in findings) else ""
    return f"{len(findings)} findings: {', '.join(counted)}{more}"
