"""Look at this machine, within the limits of `control_groups`. Everything else takes what it returns."""

from __future__ import annotations

import contextlib
import os
import platform as python_platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil

from dure.hardware.control_groups import GroupLimits, group_limits
from dure.hardware.examination.machine_root import MachineRoot
from dure.hardware.health import Health, Link, Platform
from dure.hardware.machine import Machine
from dure.hardware.power import PowerMeter
from dure.places import disk_bytes, free_bytes
from dure.processes import since_boot_s
from dure.sizes import bytes_text

__all__ = [
    "cpus", "health", "idle_s", "limited", "memory_of", "n_cpus", "platform", "probe", "processor_features",
]  # fmt: skip

# What decides which of llama.cpp's kernels run: as Linux names them on x86 and on ARM.
_FEATURES = (
    "avx", "avx2", "fma", "f16c", "bmi2", "avx_vnni", "avx512f", "avx512bw", "avx512vbmi", "avx512_vnni",
    "avx512_bf16", "amx_int8", "neon", "asimd", "asimddp", "asimdhp", "i8mm", "sve", "sve2", "fphp", "bf16",
)  # fmt: skip
_CPUS = Path("/sys/devices/system/cpu")
# As this process began: later a thread may be held to one of them.
_ALLOWED = (
    os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
)
_Reading = TypeVar("_Reading")
_SENSORS = ("cpu_thermal", "coretemp", "k10temp", "zenpower", "soc_thermal", "cpu-thermal")
_ANSWER_S = (
    2.0  # of a program that reads sensors: whoever asks for a machine's health does not wait long
)
_POWER = PowerMeter(MachineRoot(answer_s=_ANSWER_S))
_PI_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_PI_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


def probe() -> Machine:
    """Return the machine that this process runs on, as it is now, and as it may use it."""
    memory, n_online = psutil.virtual_memory(), os.cpu_count() or 1
    machine = Machine(
        _cores(),
        int(memory.total),
        int(memory.available),
        _processor()[1],
        f"{len(_ALLOWED)} of {n_online} CPUs allowed" if len(_ALLOWED) < n_online else "",
    )
    return limited(machine, group_limits())


def limited(machine: Machine, limits: GroupLimits) -> Machine:
    """Return what is left of a machine within limits.

    Threads wait for each other many times per token: one with a part of a core would hold up the others, so
    only whole cores of a quota count.
    """
    cores, cpu_limit = machine.cores, machine.cpu_limit
    if limits.cpu and limits.cpu.cpus < cores:
        cores = max(1, int(limits.cpu.cpus))
        cpu_limit = f"a quota of {limits.cpu.cpus:g} CPUs ({limits.cpu.source})"
    tighter = [one for one in limits.memory if one.limit_bytes < machine.memory_bytes]
    if not tighter:
        return replace(machine, cores=cores, cpu_limit=cpu_limit)
    least = min(tighter, key=lambda one: one.free_bytes)
    return replace(
        machine,
        cores=cores,
        memory_bytes=min(one.limit_bytes for one in tighter),
        available_bytes=min(machine.available_bytes, least.free_bytes),
        cpu_limit=cpu_limit,
        memory_limit=f"a limit of {bytes_text(least.limit_bytes)} ({least.source})",
    )


def memory_of(pid: int) -> int:
    """Return the bytes that a process and all that it started hold; 0 if it has ended."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def _cores() -> int:
    """Count the cores that this process may use, with any of their hyper-threads."""
    n = len({_siblings(_CPUS, cpu) for cpu in _ALLOWED})
    return min(n, psutil.cpu_count(logical=False) or n)


def n_cpus() -> int:
    """Count the CPUs that this process may use, hyper-threads included: as many as its quota has."""
    quota = group_limits().cpu
    return len(_ALLOWED) if quota is None else min(len(_ALLOWED), max(1, int(quota.cpus)))


def cpus(described: Path = _CPUS, allowed: Collection[int] = _ALLOWED) -> tuple[int, ...]:
    """Return the CPUs that this process may use, in the order in which they help: quick cores before slow
    ones, and before the further hyper-threads of any.

    described: the folder in which Linux describes each. allowed: the numbers of those to order.
    """
    seen = dict[str, int]()  # hyper-threads met so far, by their core
    ranked = []
    for cpu in sorted(allowed):
        core = _siblings(described, cpu)
        seen[core] = seen.get(core, 0) + 1
        ranked.append((seen[core], -_quickness(described / f"cpu{cpu}"), cpu))
    return tuple(cpu for _, _, cpu in sorted(ranked))


def idle_s(allowed: Collection[int], *, niced: bool = False) -> float | None:
    """Return the seconds for which these CPUs idled until now, in all; None if that is not known.

    niced: with the time in which they ran programs of lower than usual priority.
    """
    times = _known(lambda: psutil.cpu_times(percpu=True), None) or []
    known = [times[cpu] for cpu in allowed if cpu < len(times)]
    counted = ("idle", "iowait", "nice") if niced else ("idle", "iowait")
    return sum(getattr(t, name, 0.0) for t in known for name in counted) if known else None


def _siblings(described: Path, cpu: int) -> str:
    """Return which hyper-threads a CPU's core has: it identifies the core."""
    return _text(described / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def _quickness(cpu: Path) -> int:
    """Return a figure that is greater for quicker cores; 0 if Linux reports none."""
    texts = (_text(cpu / name) for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"))
    return next((int(text) for text in texts if text), 0)


def platform(versions: Mapping[str, str], problem: Callable[[tuple[str, ...]], str]) -> Platform:
    """Return what this machine is for good. versions: of the software that the caller knows.

    problem: why that does not run on a processor with these features.
    """
    machine = probe()
    processor, features = _processor()
    return Platform(
        socket.gethostname(),
        python_platform.machine(),
        processor,
        features,
        machine.cores,
        machine.memory_bytes,
        dict(versions),
        problem(features),
        machine.cpu_limit,
        machine.memory_limit,
    )


def operating_system() -> str:
    """Return the name of the distribution, and of its kernel."""
    kernel = f"{python_platform.system()} {python_platform.release()}"
    try:
        return f"{python_platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel


def processor_features() -> frozenset[str]:
    """Return all features of the processor, as Linux names them; none elsewhere."""
    fields = _processor_fields()
    return frozenset(fields.get("flags", fields.get("Features", "")).split())


def _processor_fields() -> dict[str, str]:
    """Return what Linux reports of the first core."""
    fields: dict[str, str] = {}
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's name and the features that matter, as Linux reports them; empty elsewhere."""
    fields, flags = _processor_fields(), processor_features()
    board = _text(Path("/proc/device-tree/model")).strip("\0 \n")
    name = fields.get("model name") or board or fields.get("Model") or python_platform.processor()
    return name, tuple(feature for feature in _FEATURES if feature in flags)


def health(directory: Path) -> Health:
    """Return how this machine is now. directory: on the disk whose room matters."""
    frequency = _known(psutil.cpu_freq, None)
    return Health(
        temperature_c=_known(_temperature, None),
        throttled=_throttled(),
        clock_mhz=float(frequency.current) if frequency else None,
        load=psutil.getloadavg()[0],
        up_s=since_boot_s(),
        available_bytes=probe().available_bytes,
        disk_free_bytes=free_bytes(directory),
        links=_known(_links, ()),
        disk_bytes=disk_bytes(directory),
        power=_POWER.read(),
    )


def _known(ask: Callable[[], _Reading], otherwise: _Reading) -> _Reading:
    """Return a reading, or `otherwise` if the kernel refuses it, as sandboxes and emulators do."""
    try:
        return ask()
    except (OSError, NotImplementedError):
        return otherwise


def _temperature() -> float | None:
    """Return the warmest reading of the processor's own sensors, else of any."""
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    found = psutil.sensors_temperatures()
    names = [name for name in _SENSORS if name in found] or list(found)
    readings = [float(one.current) for name in names for one in found[name] if one.current]
    return max(readings) if readings else None


def _throttled() -> tuple[str, ...]:
    """Return why it runs slower than it could, now: a Raspberry Pi's firmware knows."""
    text = _text(_PI_THROTTLED) or _vcgencmd()
    try:
        bits = int(text.strip().removeprefix("throttled=") or "0", 16)
    except ValueError:
        return ()
    return tuple(name for bit, name in _PI_NOW.items() if bits >> bit & 1)


def _vcgencmd() -> str:
    """Ask the firmware's own tool, if Linux does not pass it on; "" if there is none."""
    program = shutil.which("vcgencmd")
    if program is None:
        return ""
    asked = [program, "get_throttled"]
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        return subprocess.run(
            asked, capture_output=True, text=True, timeout=_ANSWER_S, check=False
        ).stdout
    return ""


def _links() -> tuple[Link, ...]:
    addresses, counters = psutil.net_if_addrs(), psutil.net_io_counters(pernic=True)
    states = _known(psutil.net_if_stats, None)  # None: those that have an address count as up
    known = counters if states is None else states
    links = []
    for name in sorted(addresses.keys() & counters.keys() & known.keys()):
        own = tuple(
            one.address.partition("%")[0]
            for one in addresses[name]
            if one.family in {socket.AF_INET, socket.AF_INET6}
        )
        if own and (states is None or states[name].isup):
            seen, speed = counters[name], states[name].speed if states else 0
            errors = seen.errin + seen.errout + seen.dropin + seen.dropout
            links.append(Link(name, own, max(0, speed), errors, seen.bytes_recv, seen.bytes_sent))
    return tuple(links)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
