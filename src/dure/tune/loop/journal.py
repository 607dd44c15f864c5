"""The losses of a run, a line for each step: losses.jsonl beside the result, and its picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from dure.tune.loop.events import Evaluated, StepLearned
from dure.whole_file import write_whole

__all__ = ["LOSSES", "LossJournal", "read_lines", "write_loss_plot"]

LOSSES = "losses.jsonl"


class LossJournal:
    """The file. after: the step after which a run goes on; what was done beyond it is forgotten."""

    def __init__(self, path: Path, after: int = 0) -> None:
        self._path = path
        kept = [line for line in self._lines() if line["step"] <= after]
        if path.exists() or kept:
            text = "".join(json.dumps(line) + "\n" for line in kept)
            write_whole(path, text.encode())

    def add(self, event: StepLearned | Evaluated) -> None:
        """Write what a step, or an evaluation, has found."""
        if isinstance(event, StepLearned):
            line = {"step": event.step, "loss": event.loss, "lr": event.lr, "norm": event.norm}
        else:
            line = {"step": event.step, "eval_loss": event.loss}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def losses(self) -> list[tuple[int, float]]:
        """Return the steps and their losses."""
        return [(line["step"], line["loss"]) for line in self._lines() if "loss" in line]

    def evaluations(self) -> list[tuple[int, float]]:
        """Return the steps after which the held-out examples were evaluated, and their losses."""
        return [(line["step"], line["eval_loss"]) for line in self._lines() if "eval_loss" in line]

    def _lines(self) -> list[dict[str, Any]]:
        return read_lines(self._path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines of such a file: the last may have been cut by a kill."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def write_loss_plot(journal: LossJournal, path: Path) -> bool:
    """Draw the losses as a PNG. Returns whether matplotlib is there to do it. Raises OSError."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = journal.losses()
    axes.plot([s for s, _ in steps], [v for _, v in steps], alpha=0.35, color="C0")
    smooth, mean = [], steps[0][1] if steps else 0.0
    for _, loss in steps:
        mean = 0.95 * mean + 0.05 * loss
        smooth.append(mean)
    axes.plot([s for s, _ in steps], smooth, color="C0", label="learned")
    if held := journal.evaluations():
        axes.plot([s for s, _ in held], [v for _, v in held], "o-", color="C1", label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss in nats a token")
    axes.grid(alpha=0.3)
    axes.legend()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    write_whole(path, data.getvalue())
    return True
