"""Examines a machine: asks every reader, and notes why one has no answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dure.hardware.examination import disks, firewall, memory, network, processor, services
from dure.hardware.examination.condition import Condition, Kernels
from dure.hardware.examination.machine_root import MachineRoot, UnreadableError

__all__ = ["Installation", "examine"]

_READERS: Mapping[str, Callable[[MachineRoot], Any]] = {
    "board": processor.board,
    "architecture": processor.architecture,
    "user_bits": processor.user_bits,
    "features": processor.features,
    "cores": processor.cores,
    "throttled": processor.throttled,
    "n_throttles": processor.n_throttles,
    "temperature_c": processor.temperature_c,
    "clocks": processor.clocks,
    "interrupts": processor.interrupts,
    "memory": memory.memory,
    "limits": memory.limits,
    "counts_memory": memory.counts_memory,
    "cards": disks.cards,
    "card_speeds": disks.card_speeds,
    "time_keeping": services.time_keeping,
    "devices": network.devices,
    "gathers_packets": network.gathers_packets,
    "coalescing": network.coalescing,
    "sleeping_links": network.sleeping_links,
    "tcp": network.tcp,
    "busy_poll_us": network.busy_poll_us,
    "rank_priority": network.rank_priority,
    "open_ports": network.open_ports,
    "firewall": firewall.firewall,
    "programs": services.programs,
    "timers": services.timers,
}


@dataclass(frozen=True)
class Installation:
    """Where dure lies on a machine. unit: of the agent. ports: on which dure wants to be reached.

    folders: those that need room, by what lies in them. build: returns what llama.cpp was built with.
    kernels: returns which of dure's own native libraries is used.
    """

    node_directory: str
    user_units: str
    config_file: str
    unit: str
    folders: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    build: Callable[[], str] = lambda: ""
    kernels: Callable[[], Kernels | None] = lambda: None


def examine(
    own: Installation, directory: Path = Path("/"), only: Collection[str] = ()
) -> Condition:
    """Examine a machine; that takes some seconds.

    directory: stands for `/`, see `MachineRoot`. only: the readings that are wanted, by their names.
    """
    root = MachineRoot(directory)
    readers: dict[str, Callable[[MachineRoot], Any]] = {
        **_READERS,
        "rooms": lambda r: disks.rooms(r, own.folders),
        "agent": lambda r: services.agent(r, own.node_directory, own.unit, own.user_units),
        "threads": lambda r: services.threads(r, own.config_file),
        "build": lambda _: own.build() or None,
        "kernels": lambda _: own.kernels(),
    }
    found: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for name in [one for one in readers if not only or one in only]:
        try:
            found[name] = readers[name](root)
        except UnreadableError as error:
            unreadable[name] = str(error)
        except (ValueError, IndexError) as error:
            unreadable[name] = f"what the machine says of it makes no sense ({error})"
    return Condition(time=time.time(), unreadable=unreadable, ports=own.ports, **found)
