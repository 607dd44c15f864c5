"""What an examination of a machine finds: frozen facts, nothing else.

They cross the network from a node to its root: a new field gets a default, since older nodes lack it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dure.hardware.control_groups import GroupLimits

__all__ = [
    "AgentState",
    "BusyProgram",
    "Card",
    "ChosenThreads",
    "ClockPolicy",
    "Coalescing",
    "Condition",
    "CoreInterrupts",
    "DiskRoom",
    "FirewallRules",
    "FrequentTimer",
    "MemoryUse",
    "NetworkDevice",
    "OpenPort",
    "SwapArea",
    "TcpBuffers",
    "TimeKeeping",
]

PortRange = tuple[int, int]


@dataclass(frozen=True)
class ClockPolicy:
    """How the clock of some cores is set. path: its folder. Clocks in kHz; 0 if not known.

    preference: of a processor that chooses its clock itself, as in "balance_performance"; "" of others.
    """

    path: str
    governor: str
    available: tuple[str, ...] = ()
    driver: str = ""
    preference: str = ""
    most_khz: int = 0
    possible_khz: int = 0


@dataclass(frozen=True)
class SwapArea:
    """A swap area in use. device: as in "/dev/zram0", or a file."""

    device: str
    size_bytes: int
    used_bytes: int


@dataclass(frozen=True)
class MemoryUse:
    """Memory in bytes. stalled: share of the last minute in which something waited for memory, or None."""

    total_bytes: int
    available_bytes: int
    swaps: tuple[SwapArea, ...] = ()
    stalled: float | None = None


@dataclass(frozen=True)
class Card:
    """An SD card or soldered flash. kind: "SD" or "MMC", as the kernel has it.

    life_used: its own estimate, in tenths, 11 if exceeded; None if it has none. errors: of its file
    systems, as they noted them. read_only: file systems that fell back to that.
    """

    name: str
    kind: str
    model: str = ""
    life_used: int | None = None
    errors: int = 0
    read_only: tuple[str, ...] = ()


@dataclass(frozen=True)
class DiskRoom:
    """The room for a folder. what: lies there."""

    what: str
    path: str
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class TimeKeeping:
    """Whether the clock agrees with a time server, and whether anything asks one."""

    is_synchronized: bool
    asks_server: bool


@dataclass(frozen=True)
class NetworkDevice:
    """A network device that is up and reaches other machines. speed_mbit: 0 if it does not say.

    is_full_duplex: None if it does not say. n_down: how often its link broke since the machine started.
    networks: those that it is in, as in "192.168.1.0/24". interrupts: the numbers of its own.
    """

    name: str
    addresses: tuple[str, ...]
    is_wireless: bool
    can_multicast: bool
    mtu: int
    speed_mbit: int = 0
    is_full_duplex: bool | None = None
    n_packets: int = 0
    n_errors: int = 0
    n_dropped: int = 0
    n_down: int = 0
    networks: tuple[str, ...] = ()
    interrupts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Coalescing:
    """How long a device waits to report several packets at once.

    receive_us: in µs. is_adaptive: it chooses that itself; None if it cannot.
    """

    receive_us: int
    is_adaptive: bool | None = None

    @property
    def words(self) -> str:
        """The same as arguments of `ethtool -C`."""
        chooses = {True: "adaptive-rx on ", False: "adaptive-rx off ", None: ""}[self.is_adaptive]
        return f"{chooses}rx-usecs {self.receive_us}"


@dataclass(frozen=True)
class CoreInterrupts:
    """What interrupts take of a core's busy time since the start, and which are most frequent there."""

    cpu: int
    share: float
    most_frequent: str


@dataclass(frozen=True)
class TcpBuffers:
    """The most that one connection may buffer, in bytes."""

    receive_bytes: int
    send_bytes: int


@dataclass(frozen=True)
class FirewallRules:
    """What a firewall lets in. is_closed: it drops what no rule allows.

    tcp, udp: ports that rules open. opens_more: a rule opens every port to somebody.
    """

    program: str
    is_closed: bool
    tcp: tuple[PortRange, ...] = ()
    udp: tuple[PortRange, ...] = ()
    opens_more: bool = False

    def admits(self, port: int, protocol: str = "tcp") -> bool:
        """Return whether somebody outside reaches a port."""
        return self.admits_range(port, port, protocol)

    def admits_range(self, first: int, last: int, protocol: str = "tcp") -> bool:
        """Return whether somebody outside reaches all of these ports."""
        ranges = self.udp if protocol == "udp" else self.tcp
        within = any(begin <= first and last <= end for begin, end in ranges)
        return not self.is_closed or self.opens_more or within


@dataclass(frozen=True)
class OpenPort:
    """A TCP port on which a program listens. program: "" if the kernel does not say to this user."""

    address: str
    port: int
    program: str = ""


@dataclass(frozen=True)
class BusyProgram:
    """A program that is not dure's. share: of one core, on average since it started."""

    name: str
    share: float


@dataclass(frozen=True)
class FrequentTimer:
    """Something that systemd starts again and again."""

    name: str
    every_s: float


@dataclass(frozen=True)
class AgentState:
    """The node's agent. unit: its file, "" if none is installed. is_enabled: it starts with the machine."""

    node: str
    port: int
    unit: str = ""
    is_enabled: bool = False
    is_listening: bool = False


@dataclass(frozen=True)
class ChosenThreads:
    """A number of threads that somebody has chosen. where: a file's section, or a running command."""

    where: str
    threads: int


@dataclass(frozen=True)
class Kernels:
    """Which of dure's native libraries computes, and which would be the best for this processor."""

    used: str
    best: str


@dataclass(frozen=True)
class Condition:
    """All that is known of a machine. None: it has no such thing, or says nothing about it.

    unreadable: why a reading is missing, by the field's name. time: what its clock said at the end of the
    examination, in seconds since 1970. features: of its processor. cores: hyper-threads of one count once.
    throttled: the bits of a Raspberry Pi's firmware. n_throttles: of another processor, since it started.
    build: what llama.cpp says it was built with. card_speeds: of reading, in bytes per second, by card.
    busy_poll_us: for which a program waits awake for a packet. ports: on which dure wants to be reached.
    rank_priority: of the packets between ranks.
    """

    time: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)
    board: str | None = None
    architecture: str | None = None
    user_bits: int | None = None
    features: tuple[str, ...] = ()
    cores: int | None = None
    throttled: int | None = None
    n_throttles: int | None = None
    temperature_c: float | None = None
    clocks: tuple[ClockPolicy, ...] = ()
    memory: MemoryUse | None = None
    limits: GroupLimits | None = None
    counts_memory: bool | None = None
    build: str | None = None
    kernels: Kernels | None = None
    cards: tuple[Card, ...] = ()
    card_speeds: dict[str, float] = field(default_factory=dict)
    rooms: tuple[DiskRoom, ...] = ()
    time_keeping: TimeKeeping | None = None
    devices: tuple[NetworkDevice, ...] = ()
    gathers_packets: dict[str, bool] = field(default_factory=dict)
    coalescing: dict[str, Coalescing] = field(default_factory=dict)
    sleeping_links: dict[str, bool] = field(default_factory=dict)
    interrupts: tuple[CoreInterrupts, ...] = ()
    tcp: TcpBuffers | None = None
    busy_poll_us: int | None = None
    rank_priority: int | None = None
    firewall: FirewallRules | None = None
    open_ports: tuple[OpenPort, ...] = ()
    programs: tuple[BusyProgram, ...] = ()
    timers: tuple[FrequentTimer, ...] = ()
    agent: AgentState | None = None
    threads: tuple[ChosenThreads, ...] = ()
    ports: tuple[int, ...] = ()
