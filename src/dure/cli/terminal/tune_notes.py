"""Notes how tuning goes on, for the page and `dure ps`: its steps, its losses, and the time left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dure.cli.terminal.noted import begin_phase, draw

if TYPE_CHECKING:
    from dure.tune.loop.events import TuneEvent

__all__ = ["TuneNotes"]


class TuneNotes:
    """What is told of a run's events within a block of `noted`. losses: the file of the run's losses."""

    def __init__(self, losses: Path) -> None:
        from dure.work_notes import GrowingCurve

        self._losses, self._curve = losses, GrowingCurve()
        self._done, self._reach = 0, begin_phase("preparing", None)

    def tell(self, event: TuneEvent) -> None:
        """Note an event."""
        from dure.tune.loop import events

        match event:
            case events.Resumed():
                self._done = event.step
                self._remember(event.step)
            case events.ModelReady():
                self._reach = begin_phase("learning", event.steps, "steps", self._done)
            case events.StepLearned():
                self._curve.learn(event.step, event.loss)
                draw(self._curve.curve)
                self._reach(event.step)
            case events.Evaluated():
                self._curve.evaluate(event.step, event.loss)
                draw(self._curve.curve)

    def _remember(self, step: int) -> None:
        """Draw what an earlier command has learned, up to that step."""
        from dure.tune.loop.journal import read_lines

        for line in read_lines(self._losses):
            if line["step"] <= step:
                if "loss" in line:
                    self._curve.learn(line["step"], line["loss"])
                if "eval_loss" in line:
                    self._curve.evaluate(line["step"], line["eval_loss"])
