"""How a machine is now: frozen facts that change by the minute. The one module that probes is `probe`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Health", "Link", "Platform", "Power"]


@dataclass(frozen=True)
class Platform:
    """What a machine is for good.

    host: its own name. architecture: as `uname -m` has it. features: of its processor, those that
    llama.cpp has kernels for. versions: of dure and of what must be the same on all nodes, by name.
    problem: why that software does not run here, or "". cpu_limit, memory_limit: see `Machine`.
    gpus: that llama.cpp can compute on, as their makers call them; not looked for everywhere.
    """

    host: str
    architecture: str
    processor: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    versions: dict[str, str]
    problem: str = ""
    cpu_limit: str = ""
    memory_limit: str = ""
    gpus: tuple[str, ...] = ()

    @property
    def limits(self) -> tuple[str, ...]:
        """What holds dure to less than the machine has."""
        return tuple(filter(None, (self.cpu_limit, self.memory_limit)))


@dataclass(frozen=True)
class Link:
    """A network interface that is up. speed_mbit: 0 if it does not say. errors: since it came up."""

    name: str
    addresses: tuple[str, ...]
    speed_mbit: int
    errors: int
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True)
class Power:
    """What a machine draws. watts: None if that is not known.

    of: what draws it: the "machine", its "board" without what hangs on it, or its "processor" (and memory
    where that is counted apart). problem: why a sensor that is there cannot be read.
    """

    watts: float | None = None
    of: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Health:
    """What a machine's sensors say.

    temperature_c, clock_mhz: None if there is no sensor. throttled: why it runs slower than it could.
    load: processes that want a core, over a minute. up_s: since it started.
    disk_bytes: the size of the disk with disk_free_bytes; 0 if it does not say.
    """

    temperature_c: float | None
    throttled: tuple[str, ...]
    clock_mhz: float | None
    load: float
    up_s: float
    available_bytes: int
    disk_free_bytes: int
    links: tuple[Link, ...]
    disk_bytes: int = 0
    power: Power = Power()
