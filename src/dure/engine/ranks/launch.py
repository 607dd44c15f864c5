"""How the ranks of a job are started: mpiexec, its arguments, and the guard around each rank.

Knows command lines. Refuses to know what ranks say, and why they end: see `running_job` and `failures`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Protocol

import psutil

from dure.engine.compute.native import library
from dure.engine.ranks.job import Job
from dure.engine.ranks.shared_memory import make_room
from dure.errors import ResourceError, UsageError

__all__ = ["GUARD", "Launch", "LocalLaunch", "find_mpiexec", "kill_all_of"]

# mpiexec ends a job when a process is killed, but waits for ever when one merely exits before MPI has
# started. So each rank runs under a guard that notes its exit code and dies of a signal itself.
# What the rank says goes to a file: mpiexec may end before it has passed everything on.
GUARD = '"$@" 2>"$0.words" || { code=$?; echo $code >"$0"; kill -9 $$; }'


class Launch(Protocol):
    """Starts the ranks of a job with mpiexec, on this machine or on others."""

    def prepare(self, job: Job, directory: Path) -> None:
        """Write what the start needs into the job's directory. Raises ResourceError if something lacks."""

    def arguments(self, job_file: Path, n_ranks: int) -> list[str]:
        """Return mpiexec's arguments. Each rank ends by a signal, whatever it dies of (see GUARD)."""

    def environment(self) -> dict[str, str]:
        """Return what mpiexec's environment has besides this process's own."""

    @property
    def transport(self) -> str:
        """How vectors get from rank to rank, for a user."""


class LocalLaunch:
    """Starts all ranks on this machine."""

    def prepare(self, job: Job, directory: Path) -> None:  # noqa: ARG002  # the job file is enough
        """Make sure that there is shared memory for all ranks. Raises ResourceError."""
        make_room(len(job.shards))

    def environment(self) -> dict[str, str]:
        """Switch off MPICH's copies between processes if they do not work here: they end the ranks."""
        return {} if may_copy() else {"MPIR_CVAR_CH4_CMA_ENABLE": "0"}

    @property
    def transport(self) -> str:
        """Shared memory, and whether long vectors are copied from process to process."""
        lacking = "shared memory (no copies between processes here)"
        return "shared memory" if may_copy() else lacking

    def arguments(self, job_file: Path, n_ranks: int) -> list[str]:
        """Return one part for each rank, so that DURE_RANK_WRAPPER may give each its own surroundings."""
        parts = [
            [
                "-n",
                "1",
                "sh",
                "-c",
                GUARD,
                str(job_file.with_name(f"rank{rank}.exit")),
                *_rank_wrapper(rank),
                sys.executable,
                "-m",
                "dure.engine.ranks.rank",
                str(job_file),
            ]
            for rank in range(n_ranks)
        ]
        return [word for i, part in enumerate(parts) for word in ([":"] if i else []) + part]


@cache
def may_copy() -> bool:
    """Return whether one process may read another's memory: containers may forbid it."""
    return bool(library().dure_processes_may_copy())


def find_mpiexec() -> list[str]:
    """Return the command of mpiexec: DURE_MPIEXEC, or that of this Python's environment."""
    named = os.environ.get("DURE_MPIEXEC")
    beside = Path(sysconfig.get_path("scripts")) / "mpiexec"
    path = named or (str(beside) if beside.exists() else None) or shutil.which("mpiexec")
    if path is None or shutil.which(path) is None:
        cause = (
            f"DURE_MPIEXEC={named} is no program, so there is no mpiexec"
            if named
            else f"mpiexec is not installed ({beside} does not exist)"
        )
        or_unset = "unset it, or " if named else ""
        raise ResourceError(cause, f"{or_unset}`pip install mpich` brings it, or use --ranks 1")
    return [path]


def _rank_wrapper(rank: int) -> list[str]:
    """Return what comes before a rank's own command, as DURE_RANK_WRAPPER says. Raises UsageError."""
    text = os.environ.get("DURE_RANK_WRAPPER", "").replace("{rank}", str(rank))
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"DURE_RANK_WRAPPER={text}: {error}", "mend it, or unset it") from None
    if words and shutil.which(words[0]) is None:
        raise UsageError(
            f"DURE_RANK_WRAPPER={text}: {words[0]} is no program", "mend it, or unset it"
        )
    return words


def kill_all_of(job_file: Path) -> None:
    """Kill every process that was started for a job: it is named in their command lines."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(job_file) in process.cmdline():
                process.kill()
