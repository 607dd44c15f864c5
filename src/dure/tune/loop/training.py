"""The loop: steps until the end, or until it does not get better, or until somebody stops it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from dure.errors import ModelError
from dure.tune.data.rows import Row, RowSource
from dure.tune.loop.checkpoint import Progress, RunCheckpoints
from dure.tune.loop.disk import disk_faults
from dure.tune.loop.events import Evaluated, Observer, Saved, StepLearned
from dure.tune.loop.journal import LossJournal
from dure.tune.loop.schedule import LearningRate
from dure.tune.loop.shared import SharedModel, passes_of
from dure.tune.optimizer import OffloadedAdamW
from dure.tune.peers.group import Peers
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
    """One run, of which this process does its share. journal: the first process's, None in others.

    is_stopped: whether somebody wants it to end after this step.
    """

    def __init__(
        self,
        settings: TuneSettings,
        model: SharedModel,
        source: RowSource,
        peers: Peers,
        optimizer: OffloadedAdamW,
        checkpoints: RunCheckpoints,
        journal: LossJournal | None,
        pace: Pace,
        observer: Observer,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._settings, self._model, self._source = settings, model, source
        self._peers, self._optimizer = peers, optimizer
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
            is_stopped, is_time = self._agreed()
            if is_stopped or self._should_save(progress, is_time):
                self._save(progress)
                saved = progress.step
            if is_stopped and progress.step < self._pace.steps:
                raise Stopped(progress.step)
        if progress.step != saved:
            self._save(progress)
        return progress

    def _gives_up(self, progress: Progress) -> bool:
        return 0 < self._settings.patience <= progress.worse

    def _is_due(self, progress: Progress) -> bool:
        at_end = progress.step == self._pace.steps
        return bool(self._held_out) and (at_end or progress.step % self._pace.eval_every == 0)

    def _agreed(self) -> tuple[bool, bool]:
        """Return whether somebody stopped any of the processes, and whether it is time to save."""
        is_time = time.monotonic() - self._saved_at > self._pace.save_after_s
        stopped, over = self._peers.total(self._is_stopped(), is_time and self._peers.is_first)
        return stopped > 0, over > 0

    def _should_save(self, progress: Progress, is_time: bool) -> bool:
        if progress.best_step == progress.step:
            return True
        if self._pace.save_every is not None:
            return progress.step % self._pace.save_every == 0
        return is_time

    def _step(self, progress: Progress) -> Progress:
        began, step = time.monotonic(), progress.step
        rows = self._source.rows(step)
        of_step = self._settings.seed * 1_000_003 + step
        torch.manual_seed(of_step * self._peers.n + self._peers.number)
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
        """Change the weights by the mean loss over all tokens of these rows, and return it.

        rows: of all processes; this one computes its share.
        """
        model, factor = self._model, self._model.factor
        weight = sum(row.weight for row in rows) / factor
        passes = passes_of(rows, self._settings.batch, self._peers)
        own = 0.0
        for number, batch in enumerate(passes, 1):
            is_last = number == len(passes)
            alone = nullcontext() if is_last else self._optimizer.accumulating()
            with alone, model.passing(is_last=is_last):
                loss = model.of(model.loss.batch(batch)) / weight
                loss.backward()
            own += loss.item() / factor
        (total,) = self._peers.total(own)
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
        model, own = self._model, 0.0
        with model.evaluating():
            for batch in passes_of(self._held_out, self._settings.batch, self._peers):
                own += model.of(model.loss.batch(batch)).item()
        (total,) = self._peers.total(own)
        return total / sum(row.weight for row in self._held_out)

    def _note(self, event: StepLearned | Evaluated) -> None:
        if self._journal is None:
            return
        with disk_faults("the list of losses", "goes on from the last checkpoint"):
            self._journal.add(event)

    def _save(self, progress: Progress) -> None:
        path = self._checkpoints.save(progress, self._model.whole(), self._optimizer.state_dict())
        self._saved_at = time.monotonic()
        self._observer(Saved(progress.step, path))
