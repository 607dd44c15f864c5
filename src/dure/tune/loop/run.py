"""One run from its settings to its result: reads the data, loads the model, learns, writes.

Everything lies in one folder: run.json with the settings, checkpoints, losses, and the result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dure.errors import UsageError
from dure.tune.base import be_quiet, fingerprint_of
from dure.tune.data.generated import is_generated
from dure.tune.loop.checkpoint import Progress, RunCheckpoints, disk_faults
from dure.tune.loop.events import DataRead, ModelReady, Notice, Observer, Resumed, RunEnded
from dure.tune.loop.faults import memory_faults
from dure.tune.loop.journal import LossJournal, write_loss_plot
from dure.tune.loop.learner import arithmetic_of, learner_of
from dure.tune.loop.losses import RowLoss, keeps_apart
from dure.tune.loop.optimizers import optimizer_of
from dure.tune.loop.prepared import Prepared, prepared_of
from dure.tune.loop.result import load_weights, write_result
from dure.tune.loop.training import Pace, Training
from dure.tune.settings import TuneMethod, TuneSettings
from dure.whole_file import write_whole

__all__ = ["RunFolder", "tune_model"]

EVALUATIONS = 10


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run: everything that is written lies there."""

    path: Path

    @property
    def record(self) -> Path:
        """Return the file with the settings, and the result's facts once there is one."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run out. Raises UsageError if there is one."""
        with disk_faults(str(self.path), "begins"):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another `dure tune` is writing into {self.path}", "wait, or use another --out"
                ) from None
            yield

    def clear(self) -> None:
        """Delete what an earlier run has left."""
        for path in (self.checkpoints, self.path / "model", self.path / "adapter"):
            shutil.rmtree(path, ignore_errors=True)
        for name in ("run.json", "losses.jsonl", "loss.png"):
            (self.path / name).unlink(missing_ok=True)
        self.checkpoints.mkdir(parents=True)

    def read(self) -> dict[str, Any]:
        """Return what is known of the run; nothing if it has not begun."""
        try:
            found: dict[str, Any] = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return {}
        return found

    def write(self, facts: dict[str, Any]) -> None:
        """Write what is known of the run. Raises ResourceError."""
        with disk_faults(str(self.record), "goes on from the last checkpoint"):
            write_whole(self.record, (json.dumps(facts, indent=2) + "\n").encode())


def tune_model(
    settings: TuneSettings,
    out: Path,
    observer: Observer,
    *,
    save_every: int | None = None,
    restart: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
) -> RunEnded:
    """Tune a model, or go on where an earlier call was stopped; return what it led to.

    restart: begin anew. Raises Stopped if is_stopped says so, and a DureError if something is wrong.
    """
    be_quiet()
    settings = settings.checked()
    folder = RunFolder(out)
    with folder.locked():
        if restart:
            folder.clear()
        identity = _identity(settings)
        facts = folder.read()
        if facts:
            _check_same(facts["settings"], identity, out)
        if "result" in facts and Path(facts["result"]["path"]).exists():
            observer(Notice("this run has ended already: --restart begins it anew"))
            return _finished(facts["result"])
        prepared = prepared_of(settings)
        _tell(prepared, observer)
        facts = {
            "dure": version("dure"),
            "settings": identity,
            "data": {"text": prepared.text, **prepared.counts},
        }
        folder.write(facts)
        checkpoints = RunCheckpoints(folder.checkpoints)
        with memory_faults(settings, lambda: _then(checkpoints)):
            done = _run(prepared, folder, checkpoints, observer, save_every, is_stopped)
        folder.write({**facts, "result": {**vars(done), "path": str(done.path)}})
    return done


def _run(
    prepared: Prepared,
    folder: RunFolder,
    checkpoints: RunCheckpoints,
    observer: Observer,
    save_every: int | None,
    is_stopped: Callable[[], bool],
) -> RunEnded:
    settings = prepared.settings
    torch.use_deterministic_algorithms(True, warn_only=True)
    arithmetic = arithmetic_of(settings.dtype)
    learner = learner_of(settings, prepared.tokenizer, arithmetic)
    pack = settings.pack and keeps_apart(learner.model, arithmetic)
    if settings.pack and not pack:
        observer(Notice("this model mixes examples of one row, so each has a row of its own"))
    source = prepared.source(pack)
    steps = prepared.steps(source)
    optimizer = optimizer_of(learner.model, settings)
    progress = checkpoints.newest() or Progress()
    if progress.step:
        load_weights(learner, checkpoints.weights(progress.step, arithmetic.device))
        optimizer.load_state_dict(checkpoints.optimizer(progress.step, arithmetic.device))
        _warn_of_other_bits(progress, observer)
        observer(Resumed(progress.step, steps))
    progress = _as_here(progress)
    kind, device = str(arithmetic.dtype).removeprefix("torch."), str(arithmetic.device)
    observer(ModelReady(learner.n_weights, learner.n_learned, kind, device, steps, prepared.ctx))
    journal = LossJournal(folder.path / "losses.jsonl", progress.step)
    pace = Pace(steps, settings.eval_every or max(1, steps // EVALUATIONS), save_every)
    training = Training(
        settings,
        learner,
        source,
        RowLoss(learner.model, arithmetic, pack=pack),
        optimizer,
        checkpoints,
        journal,
        pace,
        observer,
        is_stopped,
    )
    progress = training.run(progress)
    path, step = write_result(folder.path, learner, prepared.tokenizer, checkpoints, progress)
    with disk_faults("loss.png", "writes it"):
        write_loss_plot(journal, folder.path / "loss.png")
    losses = journal.losses()
    last = losses[-1][1] if losses else None
    done = RunEnded(
        path, step, progress.step, last, progress.best_loss, stopped_early=progress.step < steps
    )
    observer(done)
    return done


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


def _as_here(progress: Progress) -> Progress:
    return Progress(
        **{**vars(progress), "threads": torch.get_num_threads(), "torch": torch.__version__}
    )


def _warn_of_other_bits(progress: Progress, observer: Observer) -> None:
    here = _as_here(progress)
    if (here.threads, here.torch) != (progress.threads, progress.torch):
        observer(
            Notice(
                f"the checkpoint was made with {progress.threads} threads of torch {progress.torch}, "
                f"this is {here.threads} of {here.torch}: losses will be the same but for rounding"
            )
        )


def _identity(settings: TuneSettings) -> dict[str, Any]:
    """Return the settings, and what tells the model and the files from others of the same name."""
    found = settings.identity()
    files = [Path(one) for one in settings.data if not is_generated(one)]
    if settings.config:
        files.append(settings.config)
    found["the content of --data"] = [_digest(path) for path in files]
    if settings.method is not TuneMethod.SCRATCH:
        found["the content of BASE"] = fingerprint_of(settings.base)
    return found


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name another file") from error


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    for name, value in now.items():
        if name in before and before[name] != value:
            raise UsageError(
                f"{out} was begun with {name} {_shown(before[name])}, and now it is {_shown(value)}",
                "give the same settings to go on, another --out, or --restart to begin anew",
            )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return "no value" if value is None else str(value)
