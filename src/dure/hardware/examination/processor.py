"""Reads the processor of a machine: what it can, how its clock is set, how warm it is, who interrupts."""

from __future__ import annotations

import re

from dure.hardware.examination.condition import ClockPolicy, CoreInterrupts
from dure.hardware.examination.machine_root import MachineRoot, UnreadableError, whole_number

__all__ = [
    "architecture",
    "board",
    "clocks",
    "cores",
    "features",
    "interrupts",
    "n_throttles",
    "temperature_c",
    "throttled",
    "user_bits",
]

_CPUS = "/sys/devices/system/cpu"
_PI_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"
_ELF_BITS = {1: 32, 2: 64}
_PROGRAMS = ("/bin/sh", "/usr/bin/env")
_SENSORS = ("cpu", "x86_pkg_temp", "soc")  # what a processor's own zone is called, or begins with
_ENOUGH_TICKS = 6000  # a minute of work, before a share of it says anything


def board(root: MachineRoot) -> str | None:
    """Return the board's name, as its firmware has it."""
    return root.text("/proc/device-tree/model") or None


def architecture(root: MachineRoot) -> str | None:
    """Return the kernel's architecture, as `uname -m` has it."""
    return root.output("uname", "-m").strip() or None


def user_bits(root: MachineRoot) -> int | None:
    """Return of how many bits the system's programs are."""
    for program in _PROGRAMS:
        head = root.data(program, 5)
        if head[:4] == b"\x7fELF":
            return _ELF_BITS.get(head[4])
    return None


def features(root: MachineRoot) -> tuple[str, ...]:
    """Return the processor's features, as the kernel names them."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", root.text("/proc/cpuinfo"), re.MULTILINE)
    return tuple(found[1].split()) if found else ()


def cores(root: MachineRoot) -> int | None:
    """Count the cores; hyper-threads of one count once."""
    cpus = root.numbered(_CPUS, "cpu")
    siblings = {root.text(f"{cpu}/topology/thread_siblings_list") or cpu for cpu in cpus}
    return len(siblings) or None


def throttled(root: MachineRoot) -> int | None:
    """Return the bits of a Raspberry Pi's firmware that say why it is slow; None of other machines."""
    text = root.text(_PI_THROTTLED)
    if text:
        return whole_number(f"0x{text.removeprefix('0x')}", _PI_THROTTLED)
    if not root.knows("vcgencmd"):
        return None
    said = root.output("vcgencmd", "get_throttled").strip()
    return whole_number(said.removeprefix("throttled="), "`vcgencmd get_throttled`")


def n_throttles(root: MachineRoot) -> int | None:
    """Count how often heat made the processor slower since the start; None if it does not count."""
    counts = [
        root.number(f"{cpu}/thermal_throttle/{whose}_throttle_count")
        for cpu in root.numbered(_CPUS, "cpu")
        for whose in ("core", "package")
    ]
    known = [count for count in counts if count is not None]
    return max(known) if known else None


def temperature_c(root: MachineRoot) -> float | None:
    """Return the warmest reading of the processor's own sensors; None if it has none."""
    folder = "/sys/class/thermal"
    zones = {zone: root.text(f"{zone}/type") for zone in root.numbered(folder, "thermal_zone")}
    readings = [
        _celsius(root, f"{zone}/temp")
        for zone, kind in zones.items()
        if kind.lower().startswith(_SENSORS)
    ]
    return max((one for one in readings if one is not None), default=None)


def _celsius(root: MachineRoot, path: str) -> float | None:
    value = root.number(path)
    return None if value is None else value / 1000


def clocks(root: MachineRoot) -> tuple[ClockPolicy, ...]:
    """Return how the clock of each group of cores is set; none if the kernel does not set it."""
    folder = f"{_CPUS}/cpufreq"
    return tuple(_policy(root, path) for path in root.numbered(folder, "policy"))


def _policy(root: MachineRoot, path: str) -> ClockPolicy:
    governor = root.text(f"{path}/scaling_governor")
    if not governor:
        raise UnreadableError(f"{path}/scaling_governor says nothing")
    return ClockPolicy(
        path,
        governor,
        tuple(root.text(f"{path}/scaling_available_governors").split()),
        root.text(f"{path}/scaling_driver"),
        root.text(f"{path}/energy_performance_preference"),
        root.number(f"{path}/scaling_max_freq") or 0,
        root.number(f"{path}/cpuinfo_max_freq") or 0,
    )


def interrupts(root: MachineRoot) -> tuple[CoreInterrupts, ...]:
    """Return what interrupts take of each core's busy time since the start."""
    frequent = _most_frequent(root.text("/proc/interrupts"))
    found = []
    for cpu, fields in re.findall(r"^cpu(\d+) (.*)$", root.text("/proc/stat"), re.MULTILINE):
        user, nice, system, _idle, _wait, hard, soft = map(int, fields.split()[:7])
        busy = user + nice + system + hard + soft
        if busy >= _ENOUGH_TICKS:
            share = (hard + soft) / busy
            found.append(CoreInterrupts(int(cpu), share, frequent.get(int(cpu), "")))
    return tuple(found)


def _most_frequent(text: str) -> dict[int, str]:
    """Return by core who interrupts it most: the last word of a line of /proc/interrupts."""
    head, _, rest = text.partition("\n")
    numbers = [int(n) for n in re.findall(r"CPU(\d+)", head)]
    rows = [line.split() for line in rest.splitlines() if re.match(r"\s*\d+:", line)]
    frequent = {}
    for column, cpu in enumerate(numbers, start=1):
        counted = [(int(row[column]), row[-1]) for row in rows if len(row) > column + 1]
        n, name = max(counted, default=(0, ""))
        frequent[cpu] = name if n else ""
    return frequent
