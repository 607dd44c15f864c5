"""Settings of a machine, each by its name: read, and changed until the machine starts again.

    file:PATH             a file of the kernel, as /sys/class/net/eth0/mtu
    gro:DEVICE            whether packets are gathered: on, off
    eee:DEVICE            whether its link sleeps between packets: on, off
    coalescing:DEVICE     how late packets are reported: rx-usecs 57, or adaptive-rx on rx-usecs 57
    ntp                   whether a time server is asked: yes, no
    unit:KIND:NAME        whether a service starts with the machine (KIND: system, user): enabled, disabled
    ufw:NETWORK           whether ufw lets a network in: allow, none
    ranks:priority        how urgent the packets are of ranks that start from now on: 0 to 6

Refuses to know which values are good. The last four outlive a start of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from dure.errors import ResourceError, UsageError
from dure.hardware.examination.machine_root import MachineRoot, UnreadableError
from dure.hardware.examination.network import (
    coalescing,
    gathers_packets,
    rank_priority,
    sleeping_links,
)
from dure.hardware.rank_priority import write_rank_priority

__all__ = ["NEEDS_RIGHTS", "MachineSettings", "Settings", "is_set"]

NEEDS_RIGHTS = "run it with sudo"
_KERNEL_FILES = re.compile(
    r"/sys/devices/system/cpu/cpufreq/policy\d+/"
    r"(scaling_governor|scaling_max_freq|energy_performance_preference)"
    r"|/sys/class/net/[\w.-]+/mtu"
    r"|/proc/sys/net/ipv4/tcp_[rw]mem"
    r"|/proc/sys/net/core/busy_(poll|read)"
    r"|/proc/irq/\d+/smp_affinity_list"
)
_NAMES = re.compile(
    r"(gro|eee|coalescing):\w[\w.-]*|ntp|unit:(system|user):\w[\w.@-]*|ufw:\w[\w.:/]*|ranks:priority"
)
_VALUES, _PRIORITIES = re.compile(r"[\w ,.-]{1,100}"), re.compile(r"[0-6]")
_TRUTH = {True: "on", False: "off"}


class Settings(Protocol):
    """The settings of one machine, here or elsewhere. Both methods raise DureError."""

    def read(self, name: str) -> str:
        """Return a setting's value."""

    def write(self, name: str, value: str) -> None:
        """Change a setting."""


class MachineSettings:
    """The settings of this machine. directory: stands for `/`, see `MachineRoot`.

    Other settings than those listed above raise UsageError, one that cannot be read or changed
    ResourceError.
    """

    def __init__(self, directory: Path = Path("/")) -> None:
        self._root = MachineRoot(directory)

    def read(self, name: str) -> str:
        """Return a setting's value, its words separated by one blank."""
        kind, rest = _parted(name)
        try:
            value = _READERS[kind](self._root, rest)
        except UnreadableError as error:
            raise ResourceError(f"{name} cannot be read ({error})") from error
        if not value:
            raise ResourceError(f"{name}: this machine has no such setting")
        return " ".join(value.split())

    def write(self, name: str, value: str) -> None:
        """Change a setting."""
        kind, rest = _parted(name)
        if not (_PRIORITIES if kind == "ranks" else _VALUES).fullmatch(value):
            raise UsageError(f"{value!r} is no value of {name}")
        try:
            if kind == "file":
                self._root.write(rest, value)
            elif kind == "ranks":
                write_rank_priority(self._root, value)
            else:
                self._root.output(*_COMMANDS[kind](rest, value))
        except PermissionError as error:
            raise _refused(name, "permission denied") from error
        except (OSError, UnreadableError) as error:
            raise _refused(name, str(getattr(error, "strerror", None) or error)) from error


def is_set(value: str, wanted: str) -> bool:
    """Return whether a setting's value says what was wanted of it, and perhaps more."""
    return f" {wanted} " in f" {value} "


def _parted(name: str) -> tuple[str, str]:
    kind, _, rest = name.partition(":")
    is_known = _KERNEL_FILES.fullmatch(rest) if kind == "file" else _NAMES.fullmatch(name)
    if not is_known:
        raise UsageError(f"{name[:100]!r} is no setting that the doctor may change")
    return kind, rest


def _refused(name: str, reason: str) -> ResourceError:
    is_denied = re.search(r"permi(ssion|tted)|(be|as) root|denied|access", reason, re.IGNORECASE)
    cure = NEEDS_RIGHTS if is_denied else ""
    return ResourceError(f"{name} cannot be changed ({reason})", cure)


# ---------------------------------------------------------------- how each is read


def _gathers(root: MachineRoot, device: str) -> str:
    known = gathers_packets(root)
    return _TRUTH[known[device]] if device in known else ""


def _sleeps(root: MachineRoot, device: str) -> str:
    known = sleeping_links(root)
    return _TRUTH[known[device]] if device in known else ""


def _coalesces(root: MachineRoot, device: str) -> str:
    found = coalescing(root).get(device)
    return found.words if found else ""


def _asks_time(root: MachineRoot, _rest: str) -> str:
    return root.output("timedatectl", "show", "--property=NTP", "--value")


def _starts(root: MachineRoot, rest: str) -> str:
    kind, _, name = rest.partition(":")
    return root.output(*_systemctl(kind), "show", "--property=UnitFileState", "--value", name)


def _systemctl(kind: str) -> list[str]:
    return ["systemctl", "--user"] if kind == "user" else ["systemctl"]


def _lets_in(root: MachineRoot, network: str) -> str:
    rules = root.output("ufw", "show", "added").splitlines()
    return "allow" if f"ufw allow from {network}" in rules else "none"


_READERS: Mapping[str, Callable[[MachineRoot, str], str]] = {
    "file": lambda root, path: root.text(path),
    "gro": _gathers,
    "eee": _sleeps,
    "coalescing": _coalesces,
    "ntp": _asks_time,
    "unit": _starts,
    "ufw": _lets_in,
    "ranks": lambda root, _rest: str(rank_priority(root)),
}


# ---------------------------------------------------------------- how each is changed


def _start(rest: str, value: str) -> list[str]:
    kind, _, name = rest.partition(":")
    verb = ["enable", "--now"] if value == "enabled" else ["disable"]
    return [*_systemctl(kind), *verb, name]


def _let_in(network: str, value: str) -> list[str]:
    return ["ufw", *([] if value == "allow" else ["delete"]), "allow", "from", network]


_COMMANDS: Mapping[str, Callable[[str, str], list[str]]] = {
    "gro": lambda device, value: ["ethtool", "-K", device, "gro", value],
    "eee": lambda device, value: ["ethtool", "--set-eee", device, "eee", value],
    "coalescing": lambda device, value: ["ethtool", "-C", device, *value.split()],
    "ntp": lambda _, value: ["timedatectl", "set-ntp", "true" if value == "yes" else "false"],
    "unit": _start,
    "ufw": _let_in,
}
