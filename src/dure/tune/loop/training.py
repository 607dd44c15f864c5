"""The loop: steps until the end, or until it does not get better, or until somebody stops it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from dure.errors import ModelError
from dure.tune.data.rows import Row, RowSource, batches_of
from dure.tune.loop.checkpoint import Progress, RunCheckpoints, disk_faults
from dure.tune.loop.events import Evaluated, Observer, Saved, StepLearned
from dure.tune.loop.journal import LossJournal
from dure.tune.loop.learner import Learner
from dure.tune.loop.losses import RowLoss
from dure.tune.loop.schedule import LearningRate
from dure.tune.optimizer import OffloadedAdamW
from dure.tune.settings import TuneSettings

__all__ = ["Pace", "Stopped", "Training"]

_MOST_SKIPPED = 3  # steps in a row whose gradients the optimizer could not use
_CALM = "lower --lr, or compute in float32 with --dtype float32"


class Stopped(Exception):  # noqa: N818 - it is no error
    """Somebody stopped the run; a checkpoint of all steps is whole."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@dataclass(frozen=True)
class Pace:
    """When what is done besides steps. eval_every, save_every: steps. save_after_s: if no step said so."""

    steps: int
    eval_every: int
    save_every: int | None = None
    save_after_s: float = 600.0


class Training:
    """One run. is_stopped: whether somebody wants it to end after this step."""

    def __init__(
        self,
        settings: TuneSettings,
        learner: Learner,
        source: RowSource,
        loss: RowLoss,
        optimizer: OffloadedAdamW,
        checkpoints: RunCheckpoints,
        journal: LossJournal,
        pace: Pace,
        observer: Observer,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._settings, self._learner, self._source = settings, learner, source
        self._loss, self._optimizer = loss, optimizer
        self._checkpoints, self._journal, self._pace = checkpoints, journal, pace
        self._observer, self._is_stopped = observer, is_stopped
        self._held_out = source.held_out()
        self._saved_at, self._n_skipped = time.monotonic(), 0
        assert settings.lr is not None
        self._rate = LearningRate(settings.lr, pace.steps, settings.warmup, settings.schedule)

    def run(self, progress: Progress) -> Progress:
        """Do all steps that are left; return how far it came, all of it saved.

        Raises Stopped, ModelError if the loss is no number, ResourceError if the disk is full.
        """
        saved = progress.step
        while progress.step < self._pace.steps and not self._gives_up(progress):
            progress = self._step(progress)
            if self._is_due(progress):
                progress = self._evaluated(progress)
            if self._is_stopped() or self._should_save(progress):
                self._save(progress)
                saved = progress.step
            if self._is_stopped() and progress.step < self._pace.steps:
                raise Stopped(progress.step)
        if progress.step != saved:
            self._save(progress)
        return progress

    def _gives_up(self, progress: Progress) -> bool:
        return 0 < self._settings.patience <= progress.worse

    def _is_due(self, progress: Progress) -> bool:
        at_end = progress.step == self._pace.steps
        return bool(self._held_out) and (at_end or progress.step % self._pace.eval_every == 0)

    def _should_save(self, progress: Progress) -> bool:
        if progress.best_step == progress.step:
            return True
        if self._pace.save_every is not None:
            return progress.step % self._pace.save_every == 0
        return time.monotonic() - self._saved_at > self._pace.save_after_s

    def _step(self, progress: Progress) -> Progress:
        began, step = time.monotonic(), progress.step
        rows = self._source.rows(step)
        torch.manual_seed(self._settings.seed * 1_000_003 + step)
        rate = self._rate.at(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = self._learn(rows, step)
        seconds, tokens = time.monotonic() - began, sum(map(len, rows))
        event = StepLearned(
            step + 1, self._pace.steps, loss, rate, self._optimizer.last_norm, tokens, seconds
        )
        self._note(event)
        self._observer(event)
        return replace(
            progress,
            step=step + 1,
            tokens=progress.tokens + tokens,
            seconds=progress.seconds + seconds,
        )

    def _learn(self, rows: list[Row], step: int) -> float:
        """Change the weights by the mean loss over all tokens of these rows, and return it."""
        weight = sum(row.weight for row in rows)
        batches = list(batches_of(rows, self._settings.batch))
        total = 0.0
        for number, batch in enumerate(batches, 1):
            is_last = number == len(batches)
            with nullcontext() if is_last else self._optimizer.accumulating():
                loss = self._loss.of(self._loss.batch(batch)) / weight
                loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise ModelError(f"the loss of step {step + 1} is not a number", _CALM)
        n_skipped = self._optimizer.n_skipped
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._n_skipped = self._n_skipped + 1 if self._optimizer.n_skipped > n_skipped else 0
        if self._n_skipped == _MOST_SKIPPED:
            raise ModelError(
                f"the gradients of {_MOST_SKIPPED} steps up to step {step + 1} are not numbers",
                _CALM,
            )
        return total

    def _evaluated(self, progress: Progress) -> Progress:
        loss = self._held_out_loss()
        is_best = progress.best_loss is None or loss < progress.best_loss
        event = Evaluated(progress.step, loss, is_best)
        self._note(event)
        self._observer(event)
        if is_best:
            return replace(progress, best_step=progress.step, best_loss=loss, worse=0)
        return replace(progress, worse=progress.worse + 1)

    def _held_out_loss(self) -> float:
        model, total = self._learner.model, 0.0
        model.eval()
        try:
            with torch.no_grad():
                for batch in batches_of(self._held_out, self._settings.batch):
                    total += self._loss.of(self._loss.batch(batch)).item()
        finally:
            model.train()
        return total / sum(row.weight for row in self._held_out)

    def _note(self, event: StepLearned | Evaluated) -> None:
        with disk_faults("the list of losses", "goes on from the last checkpoint"):
            self._journal.add(event)

    def _save(self, progress: Progress) -> None:
        path = self._checkpoints.save(progress, self._learner.learned, self._optimizer.state_dict())
        self._saved_at = time.monotonic()
        self._observer(Saved(progress.step, path))
