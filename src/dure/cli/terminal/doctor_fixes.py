"""Asks a person before the doctor changes something, and says what was changed and taken back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import typer

from dure.cli.terminal.console import errors, printable
from dure.cluster.trust.identity import shown_name
from dure.doctor.changes import ChangeJournal, MachineChange, Undone, undo
from dure.doctor.finding import Finding
from dure.doctor.fixing import FixResult, fix
from dure.doctor.patient import Patient
from dure.errors import ClusterError, DureError
from dure.hardware.settings import Settings

__all__ = ["fix_data", "offer_fixes", "undo_all"]

_UNTIL = "until it starts again"


def offer_fixes(
    findings: Sequence[Finding],
    patients: Mapping[str, Patient],
    journal: ChangeJournal,
    *,
    asks: bool,
) -> list[FixResult]:
    """Cure what can be cured, one finding at a time. patients: by the machine of a finding.

    asks: a person agrees to each first.
    """
    results = []
    for one in findings:
        patient = patients[one.machine]
        if one.fix and (not asks or _agreed(one, patient.settings)):
            with errors.status(f"curing: {one.what}"):
                result = fix(one, patient, journal)
            results.append(result)
            _tell(result)
    if any(result.change for result in results):
        _print("`dure doctor --undo` takes the changes back")
    return results


def _agreed(finding: Finding, settings: Settings) -> bool:
    try:
        before = [settings.read(one.setting) for one in finding.fix]
    except DureError as error:
        _print(f"{_where(finding)}{finding.subject}: {error}")
        return False
    _print(f"{_where(finding)}{finding.subject}: {finding.what} ({finding.evidence})")
    for one, now in zip(finding.fix, before, strict=True):
        _print(f"  {one.setting}: {now} -> {one.value}")
    return typer.confirm("Change it?", default=True, err=True)


def _where(finding: Finding) -> str:
    """Return what tells a machine from others, if several were examined."""
    return f"{shown_name(finding.machine)}: " if finding.machine else ""


def _tell(result: FixResult) -> None:
    subject = f"{_where(result.finding)}{result.finding.subject}"
    if result.change is None:
        _print(f"{subject}: {result.problem}")
        return
    kernels = all(":" in one.setting for one in result.change.settings)
    lasting = any(one.setting.startswith(("unit:", "ufw:")) for one in result.change.settings)
    _print(f"{subject}: cured{f' {_UNTIL}' if kernels and not lasting else ''}")


def undo_all(
    settings: Mapping[str, Settings], journal: ChangeJournal
) -> Iterator[tuple[MachineChange, Undone | None]]:
    """Take all changes back, the newest first; yield each, and what became of it.

    None: it could not be taken back, and stays in the journal. settings: of each machine that answers.
    """
    for change in reversed(journal.read()):
        try:
            if change.machine not in settings:
                raise ClusterError(f"{change.machine} does not answer")
            undone = undo(settings.__getitem__, journal, change)
        except DureError as error:
            _print(f"{change.what}: {error}")
            yield change, None
            continue
        _tell_undone(undone)
        yield change, undone


def _tell_undone(undone: Undone) -> None:
    what = f"{undone.change.machine}: " if undone.change.machine else ""
    before = {one.setting: one.before for one in undone.change.settings}
    for setting in undone.restored:
        _print(f"{what}{setting} is {before[setting]} again")
    for setting in undone.left_alone:
        _print(f"{what}{setting} was changed by somebody else since, and stays")
    if not undone.restored and not undone.left_alone:
        _print(f"{what}{', '.join(before)}: as before already")


def fix_data(result: FixResult) -> dict[str, Any]:
    """Return what became of a finding as JSON has it."""
    change = msgspec.to_builtins(result.change) if result.change else None
    found = result.finding
    return {
        "check": found.check,
        "machine": found.machine,
        "change": change,
        "problem": result.problem,
    }


def _print(text: str) -> None:
    errors.print(printable(text), markup=False, soft_wrap=True)
