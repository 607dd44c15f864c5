"""What a pod is asked to tune, and the folder there in which the run lies: known at home and in the pod.

Needs no torch. Refuses to know how anything gets there.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dure.tune.settings import TuneSettings
from dure.whole_file import write_whole

__all__ = [
    "BASES",
    "CODE",
    "GIVEN",
    "PodJob",
    "WorkFolder",
    "busy_file",
    "renamed_in",
    "settings_from",
    "step_folder",
    "steps_of",
]

GIVEN = "given"
"""The folder of what was copied, below the run's; paths of a job's settings begin with it."""
CODE = f"{GIVEN}/code"
BASES = "bases"
"""The folder of models that the pod fetched itself, beside the runs."""


class PodJob(msgspec.Struct, frozen=True, kw_only=True):
    """A run on a pod.

    attempt: names one start of it; every start writes its own events. settings: with paths as the pod has
    them. names: what those are called at home. identity: what tells the run from others, in names of home.
    hub_base: the model to be fetched there, "" if it was copied. hub: the address of another hub.
    hold_s: how long what was made waits to be brought home after the end.
    """

    attempt: str
    settings: dict[str, Any]
    names: dict[str, str]
    identity: dict[str, Any]
    hub_base: str = ""
    hub: str = ""
    save_every: int | None = None
    threads: int | None = None
    tensorboard: bool = False
    restart: bool = False
    anyway: bool = False
    hold_s: int = 0


def settings_from(plain: Mapping[str, Any]) -> TuneSettings:
    """Return settings of what `TuneSettings.plain` has made of them."""
    return msgspec.convert(dict(plain), TuneSettings, dec_hook=lambda kind, value: kind(value))


def busy_file() -> Path:
    """Return the file whose growth tells the guard in the pod that work is done."""
    return Path(os.environ.get("DURE_POD_STATE") or "/var/lib/dure-pod") / "work"


@dataclass(frozen=True)
class WorkFolder:
    """The folder of a run in a pod, on its volume."""

    root: Path

    @property
    def out(self) -> Path:
        """Return the folder of the run itself, as `--out` is at home."""
        return self.root / "out"

    @property
    def taking(self) -> Path:
        """Return the folder of the checkpoint that is being brought home."""
        return self.root / "taking"

    @property
    def brought(self) -> Path:
        """Return the folder of what a run had at home, from which it goes on."""
        return self.root / "brought"

    @property
    def log(self) -> Path:
        """Return the file with what the run writes beside its events."""
        return self.root / "log"

    def events(self, attempt: str) -> Path:
        """Return the file with the events of a start, a line each."""
        return self.root / f"events-{attempt}.jsonl"

    def fetched(self, attempt: str) -> Path:
        """Return the file that is there when what a start has made is home."""
        return self.root / f"fetched-{attempt}"

    # ------------------------------------------------------------ the job

    def read(self) -> PodJob | None:
        """Return the job, None if there is none."""
        try:
            return msgspec.json.decode((self.root / "job.json").read_bytes(), type=PodJob)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, job: PodJob) -> None:
        """Write the job. Raises OSError."""
        write_whole(self.root / "job.json", msgspec.json.encode(job))

    # ------------------------------------------------------------ whether it runs

    def lock(self) -> int | None:
        """Return a descriptor that holds the run, and keeps a second one out; None if one runs.

        Whoever inherits the descriptor holds it too.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        held = os.open(self.root / "running", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return None
        return held

    @property
    def is_running(self) -> bool:
        """Whether a run holds the folder."""
        if not (self.root / "running").exists():
            return False
        held = self.lock()
        if held is not None:
            os.close(held)
        return held is None

    @property
    def pid(self) -> int:
        """The process of the last start, 0 if there was none."""
        try:
            return int((self.root / "pid").read_text())
        except (OSError, ValueError):
            return 0

    # ------------------------------------------------------------ what it has made

    def whole_steps(self) -> list[int]:
        """Return the steps of checkpoints from which a run can go on, in order."""
        return steps_of(self.out / "checkpoints")

    @property
    def has_result(self) -> bool:
        """Whether the run has come to its end."""
        try:
            return "result" in json.loads((self.out / "run.json").read_text())
        except (OSError, ValueError):
            return False


def steps_of(checkpoints: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder from which a run can go on, in order."""
    found = (path for path in checkpoints.glob("step-*") if (path / "optimizer.pt").exists())
    names = (path.name.removeprefix("step-") for path in found)
    return sorted(int(name) for name in names if name.isdecimal())


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return checkpoints / f"step-{step:06}"


def renamed_in(folder: Path, names: Mapping[str, str]) -> None:
    """Give the base of a result another name in what others read of it. names: each path's new one."""
    for file in [*folder.glob("*.json"), *folder.glob("README.md")]:
        text = before = file.read_text()
        for there, here in names.items():
            text = text.replace(there, json.dumps(here, ensure_ascii=False)[1:-1])
        if text != before:
            file.write_text(text)
