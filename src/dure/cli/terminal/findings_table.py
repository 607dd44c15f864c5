"""What a doctor found, as a table for a person, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dure.cli.terminal.console import output, printable
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
    for one in _to_explain(shown):
        output.print()
        _explain(one)
    output.print("\n" * bool(shown) + _summary(findings))


def _table(findings: Iterable[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("state", "about", "what was found", "evidence"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"state", "about"})
    for one in findings:
        state = Text(one.severity, style=_STYLES[one.severity])
        table.add_row(state, one.subject, printable(one.what), printable(one.evidence))
    return table


def _to_explain(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that have a cure, each once; what cannot be read is explained by its row."""
    known = {(one.what, one.cure): one for one in findings if one.cure}
    return [one for one in known.values() if one.severity is not Severity.UNREADABLE]


def _explain(one: Finding) -> None:
    output.print(Text(f"{one.subject}: {printable(one.what)}", style="bold"))
    _print_indented(one.why)
    by_itself = " (`dure doctor --fix` can do it)" if one.fix else ""
    _print_indented(f"Cure: {printable(one.cure)}{by_itself}")


def _print_indented(text: str) -> None:
    output.print(Padding(Text(text), (0, 0, 0, 2), expand=False))


def _summary(findings: Sequence[Finding]) -> str:
    n = Counter(one.severity for one in findings)
    counted = [f"{n[one]} {one}" for one in _ORDER if n[one]]
    more = f"; {NEEDS_ROOT}" if any(one.cure == NEEDS_ROOT for one in findings) else ""
    return f"{len(findings)} findings: {', '.join(counted)}{more}"
