"""Reads what runs on a machine: its clock's keeper, timers, programs, and dure's own agent and settings."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from dure.hardware.examination.condition import (
    AgentState,
    BusyProgram,
    ChosenThreads,
    FrequentTimer,
    TimeKeeping,
)
from dure.hardware.examination.machine_root import MachineRoot, UnreadableError
from dure.hardware.examination.network import open_ports

__all__ = ["agent", "programs", "threads", "time_keeping", "timers"]

_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_TICKS_PER_S = 100  # USER_HZ: the same on all that Linux runs on
_ENOUGH_S = 60.0  # of a program's life, before its average says anything
_LEAST_SHARE = 0.01  # of a core
_OFTEN_S = 600.0
_COMPUTING = ("serve", "run", "chat", "bench")  # the commands that take --threads
_OWN = re.compile(rb"\bdure\b|mpiexec|hydra_pmi")


def time_keeping(root: MachineRoot) -> TimeKeeping:
    """Return whether the clock agrees with a time server. Raises UnreadableError."""
    said = root.output("timedatectl", "show")
    fields = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    if "NTPSynchronized" not in fields:
        raise UnreadableError("`timedatectl show` does not say whether the clock is right")
    return TimeKeeping(fields["NTPSynchronized"] == "yes", fields.get("NTP") == "yes")


class _Timer(msgspec.Struct):
    unit: str
    next: int | None = None  # µs since 1970
    last: int | None = None


def timers(root: MachineRoot) -> tuple[FrequentTimer, ...]:
    """Return what systemd starts every ten minutes or more often. Raises UnreadableError."""
    if not root.has("/run/systemd/system"):
        return ()
    said = root.output("systemctl", "list-timers", "--output=json")
    try:
        listed = msgspec.json.decode(said or "[]", type=list[_Timer])
    except msgspec.MsgspecError as error:
        raise UnreadableError(f"`systemctl list-timers` writes no list ({error})") from None
    every = {one.unit: (one.next - one.last) / 1e6 for one in listed if one.next and one.last}
    return tuple(FrequentTimer(n, s) for n, s in sorted(every.items()) if 0 < s <= _OFTEN_S)


def programs(root: MachineRoot) -> tuple[BusyProgram, ...]:
    """Return the programs that use a core most, without dure's own, the busiest first."""
    up_s = float((root.text("/proc/uptime").split() or ["0"])[0])
    shares: dict[str, float] = defaultdict(float)
    for path in root.numbered("/proc"):
        for name, share in _share_of(root, path, up_s):
            shares[name] += share
    busy = sorted(shares.items(), key=lambda one: -one[1])
    return tuple(BusyProgram(name, share) for name, share in busy if share >= _LEAST_SHARE)


def _share_of(root: MachineRoot, path: str, up_s: float) -> Iterator[tuple[str, float]]:
    """Yield the name of a program and its share of a core, if it is not dure's or the kernel's."""
    try:
        stat, command = root.text(f"{path}/stat"), root.data(f"{path}/cmdline")
    except UnreadableError:
        return
    name, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    if len(fields) < 20 or not command or _OWN.search(command):
        return
    used_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    age_s = up_s - int(fields[19]) / _TICKS_PER_S
    if age_s >= _ENOUGH_S:
        yield name, used_s / age_s


# ---------------------------------------------------------------- dure's own


class _NodeFile(msgspec.Struct):
    name: str
    port: int


def agent(root: MachineRoot, directory: str, unit: str, user_units: str) -> AgentState | None:
    """Return the state of the node's agent; None if this machine is no node. Raises UnreadableError.

    directory: of the node. unit: the agent's. user_units: where the user's own units lie.
    """
    text = root.text(f"{directory}/node.json")
    if not text:
        return None
    try:
        node = msgspec.json.decode(text, type=_NodeFile)
    except msgspec.MsgspecError as error:
        raise UnreadableError(f"{directory}/node.json is damaged ({error})") from None
    folders = (*_UNITS, user_units)
    file = next((f"{f}/{unit}" for f in folders if root.has(f"{f}/{unit}")), "")
    enabled = any(
        root.has(f"{folder}/{target}/{unit}")
        for folder in folders
        for target in root.names(folder)
        if target.endswith(".wants")
    )
    listening = any(one.port == node.port for one in open_ports(root))
    return AgentState(node.name, node.port, file, enabled, listening)


def threads(root: MachineRoot, config_file: str) -> tuple[ChosenThreads, ...]:
    """Return the numbers of threads that were chosen: in the configuration, and of running commands."""
    return (*_configured_threads(root, config_file), *_running_threads(root))


def _configured_threads(root: MachineRoot, config_file: str) -> Iterator[ChosenThreads]:
    try:
        sections = tomllib.loads(root.text(config_file))
    except tomllib.TOMLDecodeError as error:
        raise UnreadableError(f"{config_file}: {error}") from None
    for name, section in sections.items():
        chosen = section.get("threads") if isinstance(section, dict) else None
        if isinstance(chosen, int):
            yield ChosenThreads(f"[{name}] of {config_file}", chosen)


def _running_threads(root: MachineRoot) -> Iterator[ChosenThreads]:
    for path in root.numbered("/proc"):
        try:
            words = root.data(f"{path}/cmdline").decode(errors="replace").split("\0")
        except UnreadableError:
            continue
        chosen = _threads_of(words)
        command = next((word for word in words if word in _COMPUTING), "")
        if chosen and command and any(re.search(r"\bdure\b", word) for word in words[:3]):
            yield ChosenThreads(f"`dure {command}`, which runs now", int(chosen))


def _threads_of(words: Sequence[str]) -> str:
    """Return the number behind --threads or -t; "" if there is none, or one for each rank."""
    for i, word in enumerate(words):
        value = word.partition("=")[2] or "".join(words[i + 1 : i + 2])
        if word.partition("=")[0] in {"--threads", "-t"} and value.isdigit():
            return value
    return ""
