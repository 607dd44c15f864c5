"""Checkpoints of a run: folders that are written whole, so that the last one is there whatever happens.

A new one is made under another name, forced to the disk, and renamed; only then is an older one deleted.
Kept are the newest and the one with the best evaluation, whose optimizer is not needed any more.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dure.errors import ModelError
from dure.places import free_bytes
from dure.sizes import compared
from dure.tune.loop.disk import disk_faults, new_folder
from dure.tune.peers.group import Peers

__all__ = ["Progress", "RunCheckpoints"]

_WEIGHTS, _OPTIMIZER, _PROGRESS = "weights.pt", "optimizer.pt", "progress.json"


@dataclass(frozen=True)
class Progress:
    """How far a run is. step: steps that were done. best_step, best_loss: of the best evaluation.

    worse: evaluations since then. tokens: that were read. threads, torch, processes: what the bits depend
    on.
    """

    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    worse: int = 0
    tokens: int = 0
    seconds: float = 0.0
    threads: int = 0
    torch: str = ""
    processes: int = 1


class RunCheckpoints:
    """The checkpoints in a folder. peers: the processes of the run, of which the first writes.

    is_divided: every process has a part of the optimizer's state, and adds it.
    """

    def __init__(self, folder: Path, peers: Peers | None = None, is_divided: bool = False) -> None:
        self.folder, self._peers, self._is_divided = folder, peers or Peers(), is_divided

    def save(
        self, progress: Progress, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint. Raises ResourceError if the disk is full; the last one is whole then.

        Every process calls it; it is whole when the call returns in any of them.
        """
        path = self._path(progress.step)
        if not self._peers.is_first:
            self._add_part(progress, optimizer)
            return path
        with disk_faults(f"the checkpoint of step {progress.step}", self._last_text()):
            self._check_room(weights, optimizer)
            with new_folder(path) as part:
                _save_tensors(part / _WEIGHTS, dict(weights))
                _save_tensors(part / _OPTIMIZER, dict(optimizer))
                (part / _PROGRESS).write_text(json.dumps(asdict(progress)))
                self._peers.wait()  # for others to begin
                self._peers.wait()  # for others to end
        self._forget_older(progress)
        self._peers.wait()
        return path

    def _add_part(self, progress: Progress, optimizer: Mapping[str, Any]) -> None:
        self._peers.wait()
        if self._is_divided:
            path = part_of(self._path(progress.step)) / _part_name(self._peers.number)
            with disk_faults(f"the checkpoint of step {progress.step}", "goes on from the last"):
                _save_tensors(path, dict(optimizer))
        self._peers.wait()
        self._peers.wait()

    def newest(self) -> Progress | None:
        """Return how far the newest checkpoint is, None if there is none. What was not finished goes."""
        if self._peers.is_first:
            for part in self.folder.glob("*.part"):
                shutil.rmtree(part)
        steps = [
            int(p.name.removeprefix("step-"))
            for p in self.folder.glob("step-*")
            if (p / _OPTIMIZER).exists()
        ]
        if not steps:
            return None
        try:
            return Progress(**json.loads((self._path(max(steps)) / _PROGRESS).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(
                f"the checkpoint {self._path(max(steps))} is damaged",
                "delete it to go on from an older one, or begin anew with --restart",
            ) from error

    def weights(self, step: int, device: torch.device) -> dict[str, Tensor]:
        """Return the weights of a checkpoint. Raises ModelError."""
        return self._load(step, _WEIGHTS, device)

    def optimizer(self, step: int, device: torch.device) -> dict[str, Any]:
        """Return the optimizer's state of a checkpoint: this process's part. Raises ModelError."""
        number = self._peers.number if self._is_divided else 0
        return self._load(step, _part_name(number), device)

    def _load(self, step: int, name: str, device: torch.device) -> dict[str, Any]:
        """Return what was saved, read as it is used: a run must not need twice its memory to go on."""
        path = self._path(step) / name
        try:
            found: dict[str, Any] = torch.load(
                path, map_location=device, mmap=True, weights_only=True
            )
        except Exception as error:  # pickle and zip raise what they like
            raise ModelError(
                f"{path} is damaged: {error}", "begin anew with --restart, or another --out"
            ) from error
        return found

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06}"

    def _last_text(self) -> str:
        last = self.newest()
        return f"goes on from step {last.step}" if last else "begins anew"

    def _check_room(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
        parts = [weights, *[optimizer] * (self._peers.n if self._is_divided else 1)]
        needed = sum(t.numel() * t.element_size() for t in _tensors(parts))
        if (free := free_bytes(self.folder)) < needed:
            wanted, left = compared(needed, free)
            raise OSError(errno.ENOSPC, f"it needs {wanted}, and {left} are free")

    def _forget_older(self, progress: Progress) -> None:
        for path in self.folder.glob("step-*"):
            step = int(path.name.removeprefix("step-"))
            if step not in (progress.step, progress.best_step):
                shutil.rmtree(path)
            elif step != progress.step:
                for state in path.glob(_part_name("*")):
                    state.unlink()
                (path / _OPTIMIZER).unlink(missing_ok=True)


def _part_name(number: int | str) -> str:
    return f"optimizer-{number}.pt" if number else _OPTIMIZER


def part_of(path: Path) -> Path:
    """Return the name that a folder has before all of it is on the disk."""
    return path.with_name(f"{path.name}.part")


def _save_tensors(path: Path, values: dict[str, Any]) -> None:
    """Save values. Raises OSError: torch makes another error of it, so it is kept on the way."""
    with path.open("wb") as file:
        keeper = _FaultKeeper(file)
        try:
            torch.save(values, keeper)
        except (RuntimeError, OSError):
            raise keeper.fault or OSError(errno.EIO, "the disk refuses") from None


class _FaultKeeper:
    """A file that remembers why it could not be written."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return int(self._file.write(data))
        except OSError as error:
            self.fault = self.fault or error
            raise

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
