"""Cures a finding: changes its settings, checks again, and takes the change back if it did not help."""

from __future__ import annotations

from dataclasses import dataclass

from dure.doctor.changes import ChangeJournal, MachineChange, apply, undo
from dure.doctor.checks import CHECKS
from dure.doctor.finding import Finding, Severity
from dure.doctor.patient import Patient
from dure.errors import DureError

__all__ = ["FixResult", "fix"]

_CHECKS = {one.name: one for one in CHECKS}


@dataclass(frozen=True)
class FixResult:
    """What became of a finding. change: what was changed; None if nothing is. problem: why not, or ""."""

    finding: Finding
    change: MachineChange | None = None
    problem: str = ""


def fix(finding: Finding, patient: Patient, journal: ChangeJournal) -> FixResult:
    """Cure one finding of a machine, and make sure that it is cured."""
    settings = patient.settings
    try:
        change = apply(settings, journal, finding.check, finding.what, finding.fix, patient.name)
        problem = _still(finding, patient)
        if problem:
            undo(lambda _: settings, journal, change)
            return FixResult(finding, problem=problem)
    except DureError as error:
        return FixResult(finding, problem=str(error))
    return FixResult(finding, change)


def _still(finding: Finding, patient: Patient) -> str:
    """Return why a finding is not cured; "" if it is."""
    check = _CHECKS[finding.check]
    for now in check.findings(patient.condition(check.needs)):
        if now.severity is Severity.UNREADABLE:
            return f"it was changed back, as it could not be checked: {now.evidence}"
        if now.fix == finding.fix:
            return f"it was changed back, as it did not help: {now.evidence}"
    return ""
