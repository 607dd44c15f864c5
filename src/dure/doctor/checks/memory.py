"""Checks of memory, and of what holds dure to a part of the machine."""

from __future__ import annotations

from collections.abc import Iterator

from dure.doctor.finding import Verdict, check, healthy, note, serious, warning
from dure.hardware.examination.condition import Condition
from dure.sizes import bytes_text

__all__ = ["CHECKS"]

_LITTLE_FREE, _MUCH_STALLED = 0.1, 0.05
_MUCH_SWAPPED = 100 << 20


@check(
    "memory",
    "memory",
    "A model that does not fit is read from the disk again for every token.",
    "memory",
)
def memory(condition: Condition) -> Iterator[Verdict]:
    """Judge whether there is memory left."""
    if (use := condition.memory) is None:
        return
    evidence = f"{bytes_text(use.available_bytes)} of {bytes_text(use.total_bytes)} available"
    cure = "stop other programs, or choose a smaller model or context (`dure show MODEL`)"
    if (use.stalled or 0) > _MUCH_STALLED:
        evidence += f"; programs waited for memory {use.stalled:.0%} of the last minute"
        yield serious("programs wait for memory", evidence, cure)
    elif use.available_bytes < _LITTLE_FREE * use.total_bytes:
        yield warning("little memory is left", evidence, cure)
    else:
        yield healthy("there is memory left", evidence)


@check(
    "swap",
    "swap",
    "What was swapped out comes back slowly; on an SD card it also wears the card out.",
    "memory",
)
def swap(condition: Condition) -> Iterator[Verdict]:
    """Judge whether much was swapped out, and to where."""
    if (use := condition.memory) is None:
        return
    used = sum(area.used_bytes for area in use.swaps)
    where = ", ".join(area.device for area in use.swaps) or "no swap area"
    evidence = f"{bytes_text(used)} swapped out ({where})"
    cure = "stop other programs or choose a smaller model, then `sudo swapoff -a && sudo swapon -a`"
    if used < _MUCH_SWAPPED:
        yield healthy("nothing much was swapped out", evidence)
    elif all("zram" in area.device for area in use.swaps if area.used_bytes):
        yield note("memory was swapped out, into memory that is compressed", evidence, cure)
    else:
        yield warning("memory was swapped out to a disk", evidence, cure)


@check(
    "limits",
    "limits",
    "A container or a service may be allowed less than the machine has; dure keeps to that.",
    "limits",
    "cores",
    "memory",
)
def limits(condition: Condition) -> Iterator[Verdict]:
    """Judge whether a control group holds dure to a part of the machine."""
    if (groups := condition.limits) is None or condition.memory is None:
        return
    held = []
    if groups.cpu and groups.cpu.cpus < (condition.cores or 1):
        cpus = f"{groups.cpu.cpus:g} of {condition.cores} cores"
        held.append(f"{cpus} ({groups.cpu.source})")
    total = condition.memory.total_bytes
    tighter = [one for one in groups.memory if one.limit_bytes < total]
    if tighter:
        least = min(tighter, key=lambda one: one.limit_bytes)
        held.append(f"{bytes_text(least.limit_bytes)} of {bytes_text(total)} ({least.source})")
    if not held:
        yield healthy("dure may use the whole machine")
        return
    cure = (
        "give it more: `docker run --cpus --memory`, or CPUQuota= and MemoryMax= of the service "
        "(`systemctl edit`)"
    )
    yield warning("dure may use only a part of the machine", "; ".join(held), cure)


@check(
    "memory-groups",
    "memory limits",
    "Without them a container's limit of memory has no effect: dure believes that it has all of it, and "
    "nothing stops a program from taking the memory of a model.",
    "counts_memory",
)
def memory_groups(condition: Condition) -> Iterator[Verdict]:
    """Judge whether the kernel can limit memory; Raspberry Pi OS switches that off."""
    if condition.counts_memory is None:
        return
    if condition.counts_memory:
        yield healthy("limits of memory are possible")
        return
    yield note(
        "limits of memory are switched off",
        "no memory controller among the control groups",
        "write `cgroup_enable=memory` at the end of the line in /boot/firmware/cmdline.txt, and restart",
    )


CHECKS = (memory, swap, limits, memory_groups)
