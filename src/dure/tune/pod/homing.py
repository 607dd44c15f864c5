"""Brings home what a run in a pod makes: each new checkpoint while it runs, and the result at its end.

What is at home is whole at any moment: a checkpoint takes its name when all of it is here, and the old one
stays until then. So a run goes on at home, or on another pod, when the first has vanished.
"""

from __future__ import annotations

import json
import queue
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dure.errors import DureError
from dure.pods.provider import PodError
from dure.tune.loop.disk import disk_faults, settled
from dure.tune.loop.events import Saved
from dure.tune.loop.folder import RunFolder
from dure.tune.loop.journal import LOSSES
from dure.tune.pod.job import renamed_in, step_folder, steps_of
from dure.tune.pod.line import LostLineError, PodLine

__all__ = ["Homing", "bring_checkpoint", "bring_result"]

_COMING = ".coming"
_RESULTS = ("adapter", "model", "tensorboard")
_FILES = (LOSSES, "loss.png")
_JOIN_S = 0.1


def bring_checkpoint(line: PodLine, out: Path) -> Saved | None:
    """Bring the newest checkpoint home, and the best; None if there is none that is newer.

    One that was begun before is brought first. Raises PodError, or ResourceError if the disk here is full.
    """
    checkpoints = out / "checkpoints"
    took = line.ask("take", max(steps_of(checkpoints), default=0))
    step = int(took["step"])  # it may be anything: the machine is somebody else's
    best = None if took.get("best") is None else int(took["best"])
    if not step:
        return None
    coming = out / _COMING / "checkpoints"
    line.fetch("taking/", coming, ["--delete", "--delete-before"])
    line.fetch("out/", out, _only("run.json", LOSSES))
    with disk_faults(f"the checkpoint of step {step}", "goes on from the last one"):
        if best is not None and best != step:  # first, as the newest needs it
            target = step_folder(checkpoints, best)
            if not (target / "weights.pt").exists():
                settled(step_folder(coming, best), target)
        settled(step_folder(coming, step), step_folder(checkpoints, step))
        _forget_older(checkpoints, step, best)
    return Saved(step, step_folder(checkpoints, step))


def _forget_older(checkpoints: Path, step: int, best: int | None) -> None:
    for path in checkpoints.glob("step-*"):
        if path == step_folder(checkpoints, step):
            continue
        if best is not None and path == step_folder(checkpoints, best):
            (path / "optimizer.pt").unlink(missing_ok=True)
        else:
            shutil.rmtree(path)


def bring_result(line: PodLine, out: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Bring the result home; return what its record says of it. Raises PodError, ResourceError.

    names: what paths in the pod are called at home.
    """
    coming = out / _COMING / "result"
    wanted = _only(*(f"{name}/***" for name in _RESULTS), *_FILES, "run.json")
    line.fetch("out/", coming, ["--delete", *wanted])
    facts: dict[str, Any] = json.loads((coming / "run.json").read_text())
    result = out / Path(facts["result"]["path"]).name
    with disk_faults(f"the result {result}", "brings it home"):
        for name in _RESULTS:
            if (coming / name).is_dir():
                renamed_in(coming / name, names)
                settled(coming / name, out / name)
        for name in _FILES:
            if (coming / name).exists():
                (coming / name).replace(out / name)
        shutil.rmtree(out / _COMING)
    facts["result"]["path"] = str(result)
    RunFolder(out).write(facts)
    return dict(facts["result"])


def _only(*names: str) -> list[str]:
    """Return rsync's options for these names alone."""
    return [*(f"--include=/{name}" for name in names), "--exclude=*"]


class Homing:
    """Brings checkpoints home beside all else, the newest first. Close it."""

    def __init__(self, line: PodLine, out: Path) -> None:
        self.line = line
        self._out = out
        self._came: queue.SimpleQueue[Saved | DureError] = queue.SimpleQueue()
        self._wanted, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def want(self) -> None:
        """Have the newest checkpoint brought, as there is a newer one, or the line is back."""
        self._wanted.set()

    def arrived(self) -> Saved | DureError | None:
        """Return what has arrived, or why it did not, once each."""
        try:
            return self._came.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Bring no more; what has come of a checkpoint stays, and the rest comes another time."""
        self._over = True
        self._wanted.set()
        while self._thread.is_alive():
            self.line.give_up_copying()
            self._thread.join(_JOIN_S)

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._over:
                return
            try:
                while not self._over and (saved := bring_checkpoint(self.line, self._out)):
                    self._came.put(saved)
            except LostLineError:
                continue  # it is wanted again when the line is back, or with the next checkpoint
            except (DureError, OSError) as error:
                known = error if isinstance(error, DureError) else PodError(str(error))
                self._came.put(known)
