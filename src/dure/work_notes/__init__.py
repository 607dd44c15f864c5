"""Long work on models, noted by whoever does it, so that the page and `dure ps` show it: a file for each.

    note.py        what a note says
    loss_curve.py  the losses of a tuning, few enough for a note
    writing.py     whoever works writes it: twice a second at most
    reading.py     whoever shows it reads them all, and knows which processes are gone

Refuses to know what the work is, and how it is shown.
"""

from dure.work_notes.loss_curve import GrowingCurve, LossCurve
from dure.work_notes.note import (
    Unit,
    WorkKind,
    WorkNote,
    WorkPhase,
    WorkState,
    is_shown,
    work_facts,
)
from dure.work_notes.reading import interrupt, noted_work
from dure.work_notes.writing import WorkWriter, noting

__all__ = [
    "GrowingCurve",
    "LossCurve",
    "Unit",
    "WorkKind",
    "WorkNote",
    "WorkPhase",
    "WorkState",
    "WorkWriter",
    "interrupt",
    "is_shown",
    "noted_work",
    "noting",
    "work_facts",
]
