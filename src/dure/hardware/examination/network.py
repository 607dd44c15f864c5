"""Reads the network of a machine: its devices, how they deliver packets, and what may come in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Annotated, TypeVar

import msgspec

from dure.hardware.examination.condition import Coalescing, NetworkDevice, OpenPort, TcpBuffers
from dure.hardware.examination.machine_root import MachineRoot, UnreadableError, whole_number
from dure.places import rank_priority_file

__all__ = [
    "busy_poll_us",
    "coalescing",
    "devices",
    "gathers_packets",
    "open_ports",
    "rank_priority",
    "sleeping_links",
    "tcp",
]

T = TypeVar("T")
_CLASS = "/sys/class/net"
# Devices of containers, tunnels and virtual machines: no cable hangs on them.
_VIRTUAL = re.compile(
    r"lo|docker|br-|virbr|veth|cni|flannel|cali|tailscale|wg|tun|tap|zt|ifb|dummy"
)
_ERRORS = ("rx_errors", "tx_errors", "collisions", "rx_missed_errors")
_LISTENS = "0A"


class _IpAddress(msgspec.Struct):
    local: str = ""
    prefixlen: int = 32


class _IpDevice(msgspec.Struct):
    ifname: str
    flags: list[str] = []
    mtu: Annotated[int, msgspec.Meta(ge=0)] = 0
    addr_info: list[_IpAddress] = []


def devices(root: MachineRoot) -> tuple[NetworkDevice, ...]:
    """Return the network devices that are up and have an address. Raises UnreadableError."""
    try:
        listed = msgspec.json.decode(root.output("ip", "-json", "address"), type=list[_IpDevice])
    except msgspec.MsgspecError as error:
        raise UnreadableError(f"`ip -json address` writes no list of devices ({error})") from None
    up = [one for one in listed if "UP" in one.flags and "LOWER_UP" in one.flags]
    outward = [one for one in up if one.addr_info and not _VIRTUAL.match(one.ifname)]
    return tuple(_device(root, one) for one in outward)


def _device(root: MachineRoot, found: _IpDevice) -> NetworkDevice:
    path = f"{_CLASS}/{found.ifname}"
    duplex = root.text(f"{path}/duplex")
    counts = {name: _count(root, path, name) for name in (*_ERRORS, "rx_dropped", "tx_dropped")}
    return NetworkDevice(
        found.ifname,
        tuple(address.local for address in found.addr_info),
        root.has(f"{path}/wireless") or root.has(f"{path}/phy80211"),
        "MULTICAST" in found.flags,
        found.mtu,
        max(0, root.number(f"{path}/speed") or 0),
        {"full": True, "half": False}.get(duplex),
        _count(root, path, "rx_packets") + _count(root, path, "tx_packets"),
        sum(counts[name] for name in _ERRORS),
        counts["rx_dropped"] + counts["tx_dropped"],
        root.number(f"{path}/carrier_down_count") or 0,
        tuple(_network(one) for one in found.addr_info),
        tuple(_interrupts(root, found.ifname)),
    )


def _network(address: _IpAddress) -> str:
    return str(ipaddress.ip_network(f"{address.local}/{address.prefixlen}", strict=False))


def _count(root: MachineRoot, path: str, name: str) -> int:
    return root.number(f"{path}/statistics/{name}") or 0


def _interrupts(root: MachineRoot, name: str) -> Iterator[int]:
    """Yield the numbers of a device's interrupts."""
    own = {int(number) for number in root.names(f"{_CLASS}/{name}/device/msi_irqs")}
    for line in root.text("/proc/interrupts").splitlines():
        number, _, rest = line.strip().partition(":")
        of_device = re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", rest)
        if number.isdigit() and (int(number) in own or of_device):
            yield int(number)


# ---------------------------------------------------------------- ethtool


def gathers_packets(root: MachineRoot) -> dict[str, bool]:
    """Return by device whether the kernel gathers packets before it delivers them (GRO)."""
    pattern = re.compile(r"^generic-receive-offload: (on|off)", re.MULTILINE)
    return _asked(root, "-k", lambda text: _is_on(pattern, text))


def coalescing(root: MachineRoot) -> dict[str, Coalescing]:
    """Return by device how interrupts are coalesced; without devices that cannot."""
    return _asked(root, "-c", _coalescing)


def _coalescing(text: str) -> Coalescing | None:
    found = re.search(r"^rx-usecs:\s+(\d+)", text, re.MULTILINE)
    adaptive = re.search(r"^Adaptive RX:\s+(on|off)", text, re.MULTILINE)
    is_adaptive = adaptive[1] == "on" if adaptive else None
    return Coalescing(int(found[1]), is_adaptive) if found else None


def sleeping_links(root: MachineRoot) -> dict[str, bool]:
    """Return by device whether its link sleeps between packets (EEE); without devices that cannot."""
    pattern = re.compile(r"^\s*EEE status: (enabled|disabled)", re.MULTILINE)
    return _asked(root, "--show-eee", lambda text: _is_on(pattern, text))


def _is_on(pattern: re.Pattern[str], text: str) -> bool | None:
    found = pattern.search(text)
    return found[1] in {"on", "enabled"} if found else None


def _asked(root: MachineRoot, option: str, read: Callable[[str], T | None]) -> dict[str, T]:
    """Ask ethtool about each device with a cable; those that do not support it are left out."""
    answers = {}
    for device in devices(root):
        if device.is_wireless:
            continue
        try:
            answer = read(root.output("ethtool", option, device.name))
        except UnreadableError as error:
            if "not supported" not in str(error):
                raise
            continue
        if answer is not None:
            answers[device.name] = answer
    return answers


# ---------------------------------------------------------------- TCP


def tcp(root: MachineRoot) -> TcpBuffers | None:
    """Return the most that one connection may buffer; None if the kernel does not say."""
    most = [
        text.split()[-1]
        for n in ("rmem", "wmem")
        if (text := root.text(f"/proc/sys/net/ipv4/tcp_{n}"))
    ]
    if len(most) < 2:
        return None
    return TcpBuffers(*(whole_number(text, "/proc/sys/net/ipv4") for text in most))


def busy_poll_us(root: MachineRoot) -> int | None:
    """Return for how many µs a program waits awake for a packet; None if the kernel cannot."""
    return root.number("/proc/sys/net/core/busy_read")


def rank_priority(root: MachineRoot) -> int:
    """Return how urgent packets between ranks are, 0 (as all others) to 6. Raises UnreadableError."""
    return root.number(str(rank_priority_file())) or 0


def open_ports(root: MachineRoot) -> tuple[OpenPort, ...]:
    """Return the TCP ports on which programs listen. Raises UnreadableError."""
    programs = _program_of_socket(root)
    found = []
    for table in ("tcp", "tcp6"):
        for line in root.text(f"/proc/net/{table}").splitlines()[1:]:
            row = line.split()
            if row[3] == _LISTENS:
                address, _, port = row[1].partition(":")
                program = programs.get(row[9], "")
                found.append(OpenPort(_address(address), int(port, 16), program))
    return tuple(found)


def _address(text: str) -> str:
    """Return an address that the kernel wrote as words in this machine's order of bytes."""
    data = bytes.fromhex(text)
    words = [data[i : i + 4][::-1] for i in range(0, len(data), 4)]
    return str(ipaddress.ip_address(b"".join(words)))


def _program_of_socket(root: MachineRoot) -> dict[str, str]:
    """Return the command line of the program that has a socket, by the socket's number."""
    found = dict[str, str]()
    for path in root.numbered("/proc"):
        try:
            names = root.names(f"{path}/fd")
        except UnreadableError:
            continue  # somebody else's
        links = (root.link(f"{path}/fd/{name}") for name in names)
        sockets = [link[8:-1] for link in links if link.startswith("socket:[")]
        if sockets:
            command = root.text(f"{path}/cmdline").replace("\0", " ")
            found |= dict.fromkeys(sockets, command)
    return found
