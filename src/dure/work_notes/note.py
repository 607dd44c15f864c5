"""What is noted of work: what it is, how far it is, how fast, and how it ended."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dure.processes import Moment
from dure.work_notes.loss_curve import LossCurve

__all__ = ["Unit", "WorkKind", "WorkNote", "WorkPhase", "WorkState", "is_shown", "work_facts"]

KEPT_S = 60.0  # how work ended is shown so long

WorkKind = Literal[
    "pull", "import", "quantize", "cut", "load", "eval", "imatrix", "tune", "bench", "doctor"
]
WorkPhase = Literal[
    "",
    "cutting",
    "loading",
    "preparing",
    "text",  # the model writes the text that others are judged on
    "reading",  # the original reads that text
    "errors",  # the importance of tensors: what each type loses in each of them
    "swapping",  # the same, judged by the model's answers
    "choosing",
    "writing",
    "judging",
    "timing",
    "gathering",
    "learning",
    "checking",  # a file is compared with its checksum
]
WorkState = Literal["running", "done", "failed", "stopped"]
Unit = Literal["bytes", "tokens", "steps", "part"]  # part: done counts from 0 to 1


class WorkNote(msgspec.Struct, frozen=True, kw_only=True):
    """Work as other processes see it.

    process: the identity of its process, beside its number. done, total: of the phase, in the unit; total
    is None if nobody knows it. per_s: lately; None: not known. words: what a person should know, as why
    nothing comes. at: when this was noted. stop_signal: ends the process in good order; 0: it is not to be
    ended for this work. losses: of a tuning, None of other work.
    """

    id: str
    pid: int
    process: str
    kind: WorkKind
    name: str
    begun: Moment
    at: Moment
    phase: WorkPhase = ""
    unit: Unit = "part"
    done: float | None = None
    total: float | None = None
    per_s: float | None = None
    words: str = ""
    losses: LossCurve | None = None
    state: WorkState = "running"
    error: str = ""
    cure: str = ""
    stop_signal: int = 0

    @property
    def fraction(self) -> float | None:
        """How much of the phase is done, from 0 to 1."""
        if self.state == "done":
            return 1.0
        if self.done is None or not self.total:
            return None
        return min(1.0, self.done / self.total)

    @property
    def rest_s(self) -> float | None:
        """How long the phase will take still."""
        if self.done is None or not self.total or not self.per_s or self.state != "running":
            return None
        return max(0.0, self.total - self.done) / self.per_s


def is_shown(note: WorkNote) -> bool:
    """Return whether work runs, or has ended lately."""
    return note.state == "running" or not note.at.after(KEPT_S).has_come(Moment.now())


def work_facts(note: WorkNote) -> dict[str, Any]:
    """Return what others may know of work, as JSON values: for the page, and for `dure ps --json`."""
    return {
        "id": note.id,
        "pid": note.pid,
        "kind": note.kind,
        "name": note.name,
        "phase": note.phase,
        "unit": note.unit,
        "done": note.done,
        "total": note.total,
        "fraction": note.fraction,
        "per_s": note.per_s,
        "rest_s": note.rest_s,
        "state": note.state,
        "note": note.words,
        "losses": msgspec.to_builtins(note.losses),
        "error": note.error,
        "cure": note.cure,
        "can_stop": note.state == "running" and note.stop_signal != 0,
    }
