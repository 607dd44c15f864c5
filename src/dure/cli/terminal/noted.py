"""Notes what a command works on, with the bars that it shows: for the page, and for `dure ps`.

What a command does within its work is a phase of it, not work of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dure.work_notes import LossCurve, Unit, WorkKind, WorkPhase, WorkWriter

__all__ = ["begin_phase", "draw", "noted", "noted_phase", "tell"]

_current: list[WorkWriter] = []  # one at most: a command does one thing


@contextmanager
def noted(kind: WorkKind, name: str) -> Iterator[None]:
    """Note the block as work; the bars shown within are its phases."""
    if _current:
        yield
        return
    from dure.work_notes import noting  # 20 ms, which a command without work should not take

    with noting(kind, name, keeps_done=kind != "load") as writer:
        _current.append(writer)
        try:
            yield
        finally:
            _current.clear()


def begin_phase(
    phase: WorkPhase, total: float | None, unit: Unit = "part", done: float = 0.0
) -> Callable[[float], None]:
    """Note the next phase of the current work, if there is any; return what notes how much is done."""
    if not _current:
        return lambda _: None
    _current[0].begin(phase, total, unit, done)
    return _current[0].reach


def draw(losses: LossCurve) -> None:
    """Note the losses of a tuning, if that is the current work."""
    if _current:
        _current[0].draw(losses)


def tell(words: str) -> None:
    """Note what a person should know of the current work, if there is any."""
    if _current:
        _current[0].tell(words)


@contextmanager
def noted_phase(
    phase: WorkPhase, total: float | None = None, unit: Unit = "part", done: float = 0.0
) -> Iterator[Callable[[float], None]]:
    """Note the block as a phase, as `begin_phase`; one that it interrupts goes on afterwards."""
    before = _current[0].note if _current else None
    yield begin_phase(phase, total, unit, done)
    if before is not None and before.phase:
        begin_phase(before.phase, before.total, before.unit, before.done or 0.0)
