"""What control groups leave of this machine: containers and services are limited by them.

Knows the files of cgroup v1 and v2, as systemd, Docker and Kubernetes write them. Every group above this
process limits it too, as far as they can be seen: in a container of its own namespace none of them can.
Refuses to know which processors a process may use: the kernel tells that (`sched_getaffinity`), and it
counts the groups' `cpuset`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["CpuLimit", "GroupLimits", "MemoryLimit", "group_limits"]

_NEVER = 1 << 60  # bytes: v1 writes a figure like this if there is no limit


@dataclass(frozen=True)
class CpuLimit:
    """A quota of CPU time, in CPUs. source: the file that says it, and whose."""

    cpus: float
    source: str


@dataclass(frozen=True)
class MemoryLimit:
    """A limit of memory. free_bytes: that its group could have now. source: as of `CpuLimit`."""

    limit_bytes: int
    free_bytes: int
    source: str


@dataclass(frozen=True)
class GroupLimits:
    """The limits of a process. cpu: the tightest; memory: all, as the tightest need not be the fullest."""

    cpu: CpuLimit | None = None
    memory: tuple[MemoryLimit, ...] = ()


def group_limits(root: Path = Path("/")) -> GroupLimits:
    """Return the limits of this process; none if there are no control groups. root: of the file system."""
    quotas: list[CpuLimit] = []
    memory: list[MemoryLimit] = []
    for directory, name in _groups(root):
        quotas += _quotas(directory, name)
        memory += _memory_limits(directory, name)
    return GroupLimits(min(quotas, key=lambda one: one.cpus, default=None), tuple(memory))


# ---------------------------------------------------------------- where groups are


def _groups(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the directory and the name of each group that this process is in, and of those above it."""
    mounts = list(_mounts(root))
    for line in _text(root / "proc/self/cgroup").splitlines():
        _number, controllers, path = line.split(":", 2)
        wanted = set(controllers.split(","))
        found = [
            (root / point.lstrip("/"), top)
            for kind, options, top, point in mounts
            if (wanted & options if kind == "cgroup" else not controllers)
        ]
        found.sort(key=lambda mount: not PurePosixPath(path).is_relative_to(mount[1]))
        for mounted, top in found[:1]:
            yield from _lineage(mounted, top, path)


def _mounts(root: Path) -> Iterator[tuple[str, set[str], str, str]]:
    """Yield each mounted hierarchy: its kind, its controllers, which group is its top, and where it is."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        words, _, filesystem = line.partition(" - ")
        top, point = words.split()[3:5]
        kind, _source, options = filesystem.split()[:3]
        if kind in {"cgroup", "cgroup2"}:
            yield kind, set(options.split(",")), top, point


def _lineage(mounted: Path, top: str, path: str) -> Iterator[tuple[Path, str]]:
    """Yield a group and those above it, up to the top of what is mounted.

    A container may see its group as the top of all, though its path says where it is for the machine.
    """
    group = PurePosixPath(path)
    within = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
    if ".." in within.parts:
        within = PurePosixPath()
    for part in [within, *within.parents] if within.parts else [within]:
        yield mounted / part, str(PurePosixPath(top) / part)


# ---------------------------------------------------------------- what they say


def _quotas(directory: Path, name: str) -> Iterator[CpuLimit]:
    v2, v1 = "cpu.max", "cpu.cfs_quota_us"
    quota, _, period = _text(directory / v2).strip().partition(" ")
    file = v2
    if not quota:
        file, quota, period = v1, _text(directory / v1), _text(directory / "cpu.cfs_period_us")
    time, of = _number(quota), _number(period)
    if time and of and time > 0:
        yield CpuLimit(time / of, f"{file} of {name}")


def _memory_limits(directory: Path, name: str) -> Iterator[MemoryLimit]:
    for limit_file, usage_file, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.high", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        limit = _number(_text(directory / limit_file))
        if limit is not None and limit < _NEVER:
            used = _number(_text(directory / usage_file)) or 0
            free = limit - max(0, used - _cached_bytes(directory, prefix))
            yield MemoryLimit(limit, max(0, free), f"{limit_file} of {name}")


def _cached_bytes(directory: Path, prefix: str) -> int:
    """Return the bytes of files that a group holds in memory, which make room if others need it."""
    fields = dict(
        line.split(" ", 1) for line in _text(directory / "memory.stat").splitlines() if " " in line
    )
    names = ("inactive_file", "active_file")
    return sum(_number(fields.get(f"{prefix}{name}", "")) or 0 for name in names)


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # "max", or no such file
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
