"""Reads the memory of a machine: what is left, what was swapped out, and who is held to a part of it."""

from __future__ import annotations

import re

from dure.hardware.control_groups import GroupLimits, group_limits
from dure.hardware.examination.condition import MemoryUse, SwapArea
from dure.hardware.examination.machine_root import MachineRoot, UnreadableError

__all__ = ["counts_memory", "limits", "memory"]


def memory(root: MachineRoot) -> MemoryUse:
    """Return how memory is used. Raises UnreadableError."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", root.text("/proc/meminfo"), re.MULTILINE))
    try:
        total, available = (int(fields[name]) << 10 for name in ("MemTotal", "MemAvailable"))
    except KeyError as error:
        raise UnreadableError(f"/proc/meminfo has no line {error.args[0]}") from None
    return MemoryUse(total, available, _swaps(root), _stalled(root.text("/proc/pressure/memory")))


def _swaps(root: MachineRoot) -> tuple[SwapArea, ...]:
    rows = [line.split() for line in root.text("/proc/swaps").splitlines()[1:]]
    return tuple(SwapArea(row[0], int(row[2]) << 10, int(row[3]) << 10) for row in rows)


def _stalled(pressure: str) -> float | None:
    found = re.search(r"^some .*avg60=([\d.]+)", pressure, re.MULTILINE)
    return float(found[1]) / 100 if found else None


def limits(root: MachineRoot) -> GroupLimits:
    """Return what containers and services leave to this process. Raises UnreadableError."""
    return group_limits(root.directory)


def counts_memory(root: MachineRoot) -> bool | None:
    """Return whether control groups can limit memory; None without control groups."""
    controllers = root.text("/sys/fs/cgroup/cgroup.controllers")
    if controllers:
        return "memory" in controllers.split()
    found = re.search(r"^memory\s+\d+\s+\d+\s+(\d)", root.text("/proc/cgroups"), re.MULTILINE)
    return found[1] == "1" if found else None
