"""Makes real control groups, of whichever version this machine has, and runs commands in them.

Knows where groups lie and what their limits are called. Knows nothing about dure.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_TOP = Path("/sys/fs/cgroup")
_V1 = ("memory", "cpu")
_PERIOD_US = 100_000


class Group:
    """A group for memory and CPU time; two directories where each has a hierarchy of its own (v1)."""

    def __init__(self, memory: Path, cpu: Path, *, is_v2: bool) -> None:
        self._memory, self._cpu, self._is_v2 = memory, cpu, is_v2

    @property
    def name(self) -> str:
        """As its files' messages have it."""
        return f"/{self._memory.relative_to(_TOP if self._is_v2 else _TOP / 'memory')}"

    def limit_memory(self, n_bytes: int) -> None:
        """Let its processes have this much."""
        file = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
        (self._memory / file).write_text(str(n_bytes))

    def limit_cpus(self, cpus: float) -> None:
        """Let its processes have this much of a second in a second."""
        if self._is_v2:
            (self._cpu / "cpu.max").write_text(f"{int(cpus * _PERIOD_US)} {_PERIOD_US}")
        else:
            (self._cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self._cpu / "cpu.cfs_quota_us").write_text(str(int(cpus * _PERIOD_US)))

    def take(self, pid: int) -> None:
        """Move a process that runs already into this group."""
        for path in {self._memory, self._cpu}:
            (path / "cgroup.procs").write_text(str(pid))

    def show_to(self, pid: int) -> None:
        """Mount the groups for a process that has a `/sys` of its own, as on a host of `ip netns exec`."""
        if self._is_v2:
            mounts = f"mount -t cgroup2 groups {_TOP}"
        else:
            each = (f"mkdir {_TOP}/{k} && mount -t cgroup -o {k} groups {_TOP}/{k}" for k in _V1)
            mounts = " && ".join([f"mount -t tmpfs groups {_TOP}", *each])
        subprocess.run(["nsenter", "-t", str(pid), "-m", "sh", "-c", mounts], check=True)

    @contextmanager
    def child(self, name: str) -> Iterator[Group]:
        """Make a group below this one, until the block ends."""
        if self._is_v2:
            (self._memory / "cgroup.subtree_control").write_text("+cpu +memory")
        made = {path / name for path in (self._memory, self._cpu)}
        for path in made:
            path.mkdir()
        try:
            yield Group(self._memory / name, self._cpu / name, is_v2=self._is_v2)
        finally:
            for path in made:
                _remove(path)

    def command(self, *words: str) -> list[str]:
        """Return the command that runs words in this group."""
        files = {str(path / "cgroup.procs") for path in (self._memory, self._cpu)}
        enter = "".join(f"echo $$ > {file}; " for file in sorted(files))
        return ["sh", "-c", f'{enter}exec "$@"', "sh", *words]


def _remove(path: Path) -> None:
    """Remove a group once its processes are gone."""
    give_up = time.monotonic() + 10
    while path.exists() and time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            path.rmdir()
        time.sleep(0.01)


@contextmanager
def real_group() -> Iterator[Group]:
    """Make a group until the block ends; skip the test if this machine does not allow it."""
    is_v2 = (_TOP / "cgroup.controllers").exists()
    top = (_TOP, _TOP) if is_v2 else (_TOP / "memory", _TOP / "cpu")
    try:
        with Group(*top, is_v2=is_v2).child(f"dure-test-{uuid.uuid4().hex[:8]}") as group:
            group.limit_memory(1 << 40)
            group.limit_cpus(64)
            yield group
    except (PermissionError, FileNotFoundError, NotADirectoryError, OSError) as error:
        if str(_TOP) not in str(error.filename):
            raise
        pytest.skip(f"no control groups can be made here: {error}")
