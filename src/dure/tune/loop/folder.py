"""The folder of a run, and what tells a run from others: its settings, its model and its examples.

Needs no torch. Refuses to know what is learned.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dure.errors import UsageError
from dure.tune.base import fingerprint_of
from dure.tune.data.generated import is_generated
from dure.tune.loop.disk import disk_faults
from dure.tune.loop.journal import LOSSES
from dure.tune.settings import TuneMethod, TuneSettings
from dure.whole_file import write_whole

__all__ = ["BASE_CONTENT", "RunFolder", "check_same", "identity_of"]

HUB = "hf:"
"""What the name of a base that a pod fetches from the hub begins with."""
BASE_CONTENT = "the content of BASE"
"""The name of what tells a base from others of its name."""


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
        for name in ("run.json", LOSSES, "loss.png"):
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


def identity_of(
    settings: TuneSettings, names: Mapping[str, str], *, base_is_here: bool = True
) -> dict[str, Any]:
    """Return the settings, and what tells the model and the files from others of the same name.

    names: what paths of theirs are called where the run was asked for. base_is_here: its content is told
    too. Raises UsageError.
    """
    said = settings.identity()
    found: dict[str, Any] = {option: _renamed(value, names) for option, value in said.items()}
    files = [Path(one) for one in settings.data if not is_generated(one)]
    if settings.config:
        files.append(settings.config)
    found["the content of --data"] = [_digest(path) for path in files]
    if settings.method is not TuneMethod.SCRATCH and base_is_here:
        found[BASE_CONTENT] = fingerprint_of(settings.base)
    return found


def _is_of_the_hub(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether both have the same base, which one of them has named as the hub does."""
    is_named = any(str(one.get("BASE", "")).startswith(HUB) for one in (before, now))
    return is_named and before.get(BASE_CONTENT) == now.get(BASE_CONTENT) is not None


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name another file") from error


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path | str) -> None:
    """Raise UsageError if a run was begun with other settings. out: what to call it."""
    for name, value in now.items():
        if name == "BASE" and _is_of_the_hub(before, now):
            continue
        if name in before and before[name] != value:
            raise UsageError(
                f"{out} was begun with {name} {_shown(before[name])}, and now it is {_shown(value)}",
                "give the same settings to go on, another --out, or --restart to begin anew",
            )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return "no value" if value is None else str(value)
