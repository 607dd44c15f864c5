"""One run from its settings to its result: reads the data, loads the model, learns, writes.

Everything lies in one folder: run.json with the settings, checkpoints, losses, and the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dure.errors import UsageError
from dure.tune.base import be_quiet
from dure.tune.loop.allocator import give_back
from dure.tune.loop.checkpoint import Progress, RunCheckpoints
from dure.tune.loop.disk import disk_faults
from dure.tune.loop.events import (
    DataRead,
    ModelReady,
    Notice,
    Observer,
    Resumed,
    RunEnded,
    TuneEvent,
)
from dure.tune.loop.faults import memory_faults
from dure.tune.loop.folder import RunFolder, check_same, identity_of
from dure.tune.loop.journal import LOSSES, LossJournal, write_loss_plot
from dure.tune.loop.learner import Learner, arithmetic_of, learner_of
from dure.tune.loop.losses import Arith, RowLoss, keeps_apart
from dure.tune.loop.optimizers import optimizer_of
from dure.tune.loop.prepared import Prepared, prepared_of
from dure.tune.loop.result import write_result
from dure.tune.loop.shared import SharedModel, is_divided, shared_model
from dure.tune.loop.training import Pace, Training
from dure.tune.peers.group import Peers, lost_peers
from dure.tune.settings import TuneSettings

__all__ = ["evaluated_every", "finished_run", "tune_model"]

EVALUATIONS = 10


def tune_model(
    settings: TuneSettings,
    out: Path,
    observer: Observer,
    *,
    save_every: int | None = None,
    restart: bool = False,
    check: Callable[[Prepared, bool], None] | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    peers: Peers | None = None,
    names: Mapping[str, str] | None = None,
) -> RunEnded:
    """Tune a model, or go on where an earlier call was stopped; return what it led to.

    restart: begin anew. check: is called when the data are read and before a model is loaded, also if the
    run goes on, and raises what speaks against it; but not if several processes share the run. peers: the
    processes that call this together, each for its share; the first writes and tells the observer. names:
    what files are called where the run was asked for, if that is elsewhere. Raises Stopped if is_stopped
    says so, and a DureError if something is wrong.
    """
    be_quiet()
    peers = peers or Peers()
    settings = settings.checked()
    _check_shares(settings, peers)
    seen = observer if peers.is_first else _silent
    run = _Run(settings, RunFolder(out), peers, seen, names or {})
    with run.folder.locked() if peers.is_first else nullcontext(), lost_peers():
        return run.ended(save_every, restart, check, is_stopped)


def finished_run(out: Path) -> RunEnded:
    """Return what a run that has ended has led to."""
    return _finished(RunFolder(out).read()["result"])


class _Run:
    """A run as one of its processes does it."""

    def __init__(
        self,
        settings: TuneSettings,
        folder: RunFolder,
        peers: Peers,
        observer: Observer,
        names: Mapping[str, str],
    ) -> None:
        self._names = names
        self._settings, self.folder, self._peers, self._tell = settings, folder, peers, observer
        self._checkpoints = RunCheckpoints(folder.checkpoints, peers, is_divided(settings, peers.n))

    def ended(
        self,
        save_every: int | None,
        restart: bool,
        check: Callable[[Prepared, bool], None] | None,
        is_stopped: Callable[[], bool],
    ) -> RunEnded:
        """Do what is left of the run."""
        identity = identity_of(self._settings, self._names)
        known = self._known(identity, restart) if self._peers.is_first else {}
        facts, progress = self._peers.told((known, self._newest()))
        if "result" in facts and Path(facts["result"]["path"]).exists():
            self._tell(Notice("this run has ended already: --restart begins it anew"))
            return _finished(facts["result"])
        self._check_divided(progress)
        prepared = prepared_of(self._settings)
        _tell(prepared, self._tell)
        give_back()
        if check is not None and self._peers.n == 1:
            check(prepared, progress.step > 0)
        facts = {
            "dure": version("dure"),
            "settings": identity,
            "data": {"text": prepared.text, **prepared.counts},
        }
        self._write(facts)
        with memory_faults(self._settings, lambda: _then(self._checkpoints)):
            done = self._learned(prepared, progress, save_every, is_stopped)
        self._write({**facts, "result": {**vars(done), "path": str(done.path)}})
        return done

    def _known(self, identity: dict[str, Any], restart: bool) -> dict[str, Any]:
        """Return what is known of the run. Raises UsageError if it was begun with other settings."""
        if restart:
            self.folder.clear()
        facts = self.folder.read()
        if facts:
            check_same(facts["settings"], identity, self.folder.path)
        return facts

    def _newest(self) -> Progress:
        return (self._checkpoints.newest() if self._peers.is_first else None) or Progress()

    def _write(self, facts: dict[str, Any]) -> None:
        if self._peers.is_first:
            self.folder.write(facts)

    def _check_divided(self, progress: Progress) -> None:
        """Check that the optimizer's state has as many parts as there are processes. Raises UsageError."""
        before, now = progress.processes, self._peers.n
        if progress.step and before != now and is_divided(self._settings, max(before, now)):
            raise UsageError(
                f"{self.folder.path} was begun on {_number(before)}, which divided all weights among them, "
                f"and now it is {_number(now)}",
                f"use {_number(before)} again, another --out, or --restart to begin anew",
            )

    def _learned(
        self,
        prepared: Prepared,
        progress: Progress,
        save_every: int | None,
        is_stopped: Callable[[], bool],
    ) -> RunEnded:
        settings, peers = self._settings, self._peers
        torch.use_deterministic_algorithms(True, warn_only=True)
        arithmetic = arithmetic_of(settings.dtype)
        learner, loss, model = self._loaded(prepared, arithmetic)
        source = prepared.source(loss.pack)
        steps = prepared.steps(source)
        optimizer = optimizer_of(learner.model, settings, peers.n)
        if progress.step:
            memory = torch.device("cpu")
            model.load(self._checkpoints.weights(progress.step, memory))
            optimizer.load_state_dict(self._checkpoints.optimizer(progress.step, memory))
            _warn_of_other_bits(progress, peers, self._tell)
            self._tell(Resumed(progress.step, steps))
        progress = _as_here(progress, peers)
        self._tell(
            ModelReady(
                learner.n_weights,
                learner.n_learned,
                str(arithmetic.dtype).removeprefix("torch."),
                str(arithmetic.device),
                steps,
                prepared.ctx,
                peers.n,
            )
        )
        journal = self._journal(progress)
        every = evaluated_every(settings, steps)
        training = Training(
            settings,
            model,
            source,
            peers,
            optimizer,
            self._checkpoints,
            journal,
            Pace(steps, every, save_every),
            self._tell,
            is_stopped,
        )
        progress = training.run(progress)
        return self._result(learner, prepared, progress, journal, steps)

    def _loaded(
        self, prepared: Prepared, arithmetic: Arith
    ) -> tuple[Learner, RowLoss, SharedModel]:
        """Return the model, what computes its loss, and what all processes have of it.

        A model that is divided is loaded and tried in memory: the whole of it may not fit on a GPU.
        """
        settings, peers = self._settings, self._peers
        at_first = arithmetic
        if is_divided(settings, peers.n):
            at_first = Arith(torch.device("cpu"), arithmetic.dtype)
        learner = learner_of(settings, prepared.tokenizer, at_first)
        pack = settings.pack and keeps_apart(learner.model, at_first)
        if settings.pack and not pack:
            self._tell(Notice("this model mixes examples of one row, so each has a row of its own"))
        is_plain = RowLoss(learner.model, at_first, pack=pack).is_plain
        loss = RowLoss(learner.model, arithmetic, pack=pack, is_plain=is_plain)
        return learner, loss, shared_model(learner, loss, peers, settings)

    def _journal(self, progress: Progress) -> LossJournal | None:
        if not self._peers.is_first:
            return None
        return LossJournal(self.folder.path / LOSSES, progress.step)

    def _result(
        self,
        learner: Learner,
        prepared: Prepared,
        progress: Progress,
        journal: LossJournal | None,
        steps: int,
    ) -> RunEnded:
        """Write the result, if this process does; return what the run led to."""
        done = None
        if journal is not None:
            out = self.folder.path
            path, step = write_result(out, learner, prepared.tokenizer, self._checkpoints, progress)
            with disk_faults("loss.png", "writes it"):
                write_loss_plot(journal, out / "loss.png")
            losses = journal.losses()
            last = losses[-1][1] if losses else None
            is_early = progress.step < steps
            done = RunEnded(
                path, step, progress.step, last, progress.best_loss, stopped_early=is_early
            )
            self._tell(done)
        told = self._peers.told(done)
        assert told is not None, "the first has a journal"
        return told


def _silent(_: TuneEvent) -> None:
    """Tell nothing: the first process does."""


def _check_shares(settings: TuneSettings, peers: Peers) -> None:
    if settings.rows_per_step < peers.n:
        raise UsageError(
            f"--batch {settings.batch} times --accumulate {settings.accumulate} are fewer rows than "
            f"{_number(peers.n)}",
            f"use --accumulate {peers.n} or more: each takes its share of a step's rows",
        )


def _number(n: int) -> str:
    return "1 process" if n == 1 else f"{n} processes"


def evaluated_every(settings: TuneSettings, steps: int) -> int:
    """Return after how many steps each evaluation comes; there is one at the end in any case."""
    return settings.eval_every or max(1, steps // EVALUATIONS)


def _tell(prepared: Prepared, observer: Observer) -> None:
    observer(DataRead(prepared.text, **prepared.counts))
    for note in prepared.notes:
        observer(Notice(note))


def _then(checkpoints: RunCheckpoints) -> str:
    last = checkpoints.newest()
    return (
        f"It goes on from step {last.step}, whose checkpoint is whole"
        if last
        else "Nothing is lost"
    )


def _finished(result: dict[str, Any]) -> RunEnded:
    return RunEnded(**{**result, "path": Path(result["path"])})


def _as_here(progress: Progress, peers: Peers) -> Progress:
    threads = torch.get_num_threads()
    return replace(progress, threads=threads, torch=torch.__version__, processes=peers.n)


def _warn_of_other_bits(progress: Progress, peers: Peers, observer: Observer) -> None:
    here = _as_here(progress, peers)
    if here != progress:
        observer(
            Notice(
                f"the checkpoint was made by {_number(progress.processes)} with {progress.threads} threads "
                f"of torch {progress.torch}, here it is {_number(here.processes)} with {here.threads} of "
                f"{here.torch}: losses will be the same but for rounding"
            )
        )
