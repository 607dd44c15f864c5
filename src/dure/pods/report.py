"""What the guard in a pod says of itself, as it is read over ssh: `start.sh` writes it.

Knows the lines, and that the pod's clock may differ from the provider's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["READ_AND_BEAT", "PodReport", "report_of"]

READ_AND_BEAT = "d=${DURE_POD_STATE:-/var/lib/dure-pod}; date +%s >$d/heartbeat; cat $d/report"
"""The command that reads the report, and tells the guard that its owner was here."""
_TIMES = ("now", "armed_at", "dies_at", "active_at")


@dataclass(frozen=True)
class PodReport:
    """Times of the pod's clock. armed_at: when the provider last accepted its key, 0 if never.

    answer: the provider's status then. ending: why it is ending the pod; "" if it is not.
    """

    now: float
    armed_at: float
    dies_at: float
    active_at: float
    answer: str = ""
    ending: str = ""

    def as_of(self, at: float) -> PodReport:
        """Return the report with times of the provider's clock, which shows `at` now."""
        ahead = at - self.now
        return PodReport(
            at,
            self.armed_at and self.armed_at + ahead,
            self.dies_at + ahead,
            self.active_at + ahead,
            self.answer,
            self.ending,
        )


def report_of(lines: str) -> PodReport | None:
    """Return the report in what was read; None if it is not there, or not whole."""
    found = dict(re.findall(r"^([a-z_]+)=(.*)$", lines, re.MULTILINE))
    if not all(re.fullmatch(r"\d+", found.get(name, "")) for name in _TIMES):
        return None
    now, armed_at, dies_at, active_at = (float(found[name]) for name in _TIMES)
    return PodReport(
        now, armed_at, dies_at, active_at, found.get("answer", ""), found.get("ending", "")
    )
