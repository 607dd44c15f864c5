"""The jobs that this root runs on its cluster: one file each, locked as long as the job's command lives.

A lock goes with its process, however that ends, so what is left of a dead command is never mistaken for a
job. Knows the directory `jobs` of the cluster. Refuses to know which ranks run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec

from dure.cluster.job_identity import JobIdentity
from dure.whole_file import write_whole

__all__ = ["JobRegistry", "MachineUse", "Registration"]


class MachineUse(msgspec.Struct, frozen=True):
    """What a job takes of a machine. n_bytes: of memory, when all is loaded."""

    threads: int
    n_bytes: int


class Registration(msgspec.Struct, frozen=True):
    """A job, and what it takes of each machine, by name; of none until it has chosen them."""

    job: JobIdentity
    machines: dict[str, MachineUse] = {}


class JobRegistry:
    """Stores which jobs use which machines, in a cluster's directory.

    own: the job of the caller, which `others` leaves out.
    """

    def __init__(self, directory: Path, own: JobIdentity | None = None) -> None:
        self._directory, self._own = directory / "jobs", own

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """Keep the caller's job alive until the block, or the process, ends. Raises OSError."""
        assert self._own is not None, "a job registers itself"
        self._directory.mkdir(exist_ok=True)
        with self._alone():
            lock = self._lock_file(self._own.id).open("w")
            fcntl.lockf(lock, fcntl.LOCK_EX)  # of this process alone: no child inherits it
            self._write(Registration(self._own))
        owner = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == owner:  # not a fork, which has a copy of this block
                with contextlib.suppress(FileNotFoundError), self._alone():  # or all was dissolved
                    self._delete(self._own.id)
                lock.close()

    def others(self) -> list[Registration]:
        """Return all other jobs that live, the oldest first."""
        if not self._directory.exists():
            return []
        with self._alone():
            return self._others()

    def claimed(self) -> dict[str, MachineUse]:
        """Return what the caller's own job has claimed, by machine."""
        assert self._own is not None, "a job asks for itself"
        found = self._read(self._file(self._own.id))
        return found.machines if found else {}

    def claim(self, machines: Mapping[str, MachineUse], known: Collection[str]) -> bool:
        """Store what the caller's job takes, in place of what it took before.

        known: ids of the jobs that the choice reckoned with. Returns False, and stores nothing, if another
        one has claimed some of these machines since.
        """
        assert self._own is not None, "a job claims for itself"
        with self._alone():
            for other in self._others():
                if other.job.id not in known and not other.machines.keys().isdisjoint(machines):
                    return False
            self._write(Registration(self._own, dict(machines)))
        return True

    # ------------------------------------------------------------ files

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _others(self) -> list[Registration]:
        found = []
        for path in self._directory.glob("*.json"):
            if self._own is not None and path.stem == self._own.id:
                continue  # to open and close its lock here would give it up
            if not self._is_alive(path.stem):
                self._delete(path.stem)
            elif registration := self._read(path):
                found.append(registration)
        return sorted(found, key=lambda one: one.job.since)

    def _is_alive(self, job_id: str) -> bool:
        try:
            with self._lock_file(job_id).open("r+") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    def _read(self, path: Path) -> Registration | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Registration)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, registration: Registration) -> None:
        write_whole(self._file(registration.job.id), msgspec.json.encode(registration))

    def _delete(self, job_id: str) -> None:
        for path in (self._file(job_id), self._lock_file(job_id)):
            path.unlink(missing_ok=True)

    def _file(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.json"

    def _lock_file(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.lock"
