"""What a check finds: a record with evidence and a cure. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

__all__ = [
    "NEEDS_ROOT",
    "Check",
    "Examined",
    "Finding",
    "SettingValue",
    "Severity",
    "Verdict",
    "check",
    "healthy",
    "judged",
    "note",
    "serious",
    "warning",
]


NEEDS_ROOT = "run it with sudo, which may read more"


class Severity(StrEnum):
    """How bad it is. Unreadable: nobody knows."""

    HEALTHY = "healthy"
    NOTE = "note"
    WARNING = "warning"
    SERIOUS = "serious"
    UNREADABLE = "unreadable"

    @property
    def is_trouble(self) -> bool:
        """Whether something should be done about it."""
        return self in {Severity.WARNING, Severity.SERIOUS}


@dataclass(frozen=True)
class SettingValue:
    """A setting of a machine (see `dure.hardware.settings`), and the value that it should have."""

    setting: str
    value: str


@dataclass(frozen=True)
class Verdict:
    """What a check says of one thing. fix: the settings that cure it; none if only a person can."""

    severity: Severity
    what: str
    evidence: str = ""
    cure: str = ""
    fix: tuple[SettingValue, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A verdict with the name of its check, and why it matters.

    subject: in two words, for a table. machine: its name in the cluster; "" if only one was examined.
    """

    check: str
    subject: str
    severity: Severity
    what: str
    why: str
    evidence: str = ""
    cure: str = ""
    fix: tuple[SettingValue, ...] = ()
    machine: str = ""


class Examined(Protocol):
    """What was examined: a machine or a file."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Why a reading is missing, by its name."""


T = TypeVar("T", bound=Examined)
Judge = Callable[[T], Iterable[Verdict]]


@dataclass(frozen=True)
class Check(Generic[T]):
    """A question to what was examined. needs: the readings without which it cannot be answered.

    judge yields nothing if there is no such thing.
    """

    name: str
    subject: str
    why: str
    needs: tuple[str, ...]
    judge: Judge[T]

    def findings(self, examined: T) -> Iterator[Finding]:
        """Yield what this check finds."""
        reasons = [examined.unreadable[n] for n in self.needs if n in examined.unreadable]
        verdicts = [_unreadable(reasons[0])] if reasons else self.judge(examined)
        for v in verdicts:
            known = (self.name, self.subject, v.severity, v.what, self.why)
            yield Finding(*known, v.evidence, v.cure, v.fix)


def _unreadable(reason: str) -> Verdict:
    cure = ""
    if "is not installed" in reason:
        cure = f"`sudo apt install {reason.split('`')[1]}`, or another package that has it"
    elif re.search(r"permi(ssion|tted)|(be|as) root", reason, re.IGNORECASE):
        cure = NEEDS_ROOT
    return Verdict(Severity.UNREADABLE, "it could not be examined", reason, cure)


def check(name: str, subject: str, why: str, *needs: str) -> Callable[[Judge[T]], Check[T]]:
    """Make a check of the function that judges."""
    return lambda judge: Check(name, subject, why, needs, judge)


def judged(checks: Iterable[Check[T]], examined: T) -> list[Finding]:
    """Return what checks find."""
    return [finding for one in checks for finding in one.findings(examined)]


def healthy(what: str, evidence: str = "") -> Verdict:
    """Return the verdict that all is well."""
    return Verdict(Severity.HEALTHY, what, evidence)


def note(what: str, evidence: str, cure: str, *fix: SettingValue) -> Verdict:
    """Return the verdict that something could be a little better."""
    return Verdict(Severity.NOTE, what, evidence, cure, fix)


def warning(what: str, evidence: str, cure: str, *fix: SettingValue) -> Verdict:
    """Return the verdict that something makes the machine slower, or may soon."""
    return Verdict(Severity.WARNING, what, evidence, cure, fix)


def serious(what: str, evidence: str, cure: str, *fix: SettingValue) -> Verdict:
    """Return the verdict that something makes the machine much slower, unsafe or useless."""
    return Verdict(Severity.SERIOUS, what, evidence, cure, fix)
