"""How machines find each other on a network without being told addresses: mDNS.

Knows names of services. Refuses to believe them: whoever answers must prove who it is by TLS.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

__all__ = ["announced", "find"]

DOOR = "_dure-join._tcp.local."
NODE = "_dure-node._tcp.local."
ASK_MS = 1000


@contextmanager
def announced(kind: str, name: str, port: int, told: dict[str, str]) -> Iterator[bool]:
    """A service is announced while the block runs; False where the network allows none."""
    info = ServiceInfo(
        kind,
        f"{name}.{kind}",
        port=port,
        addresses=[address.packed for address in _addresses()],
        properties=dict(told),
        server=f"{name}.local.",
    )
    try:
        zeroconf = Zeroconf(interfaces=InterfaceChoice.All)
    except (OSError, ZeroconfError):
        yield False
        return
    try:
        try:
            zeroconf.register_service(info, allow_name_change=True)
        except (OSError, ZeroconfError):
            yield False
            return
        yield True
    finally:
        zeroconf.close()


class _Seen(ServiceListener):
    """Remembers names; what they mean is asked later, in the caller's thread."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:  # noqa: ARG002
        """A service has come."""
        self.names.append(name)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """A service has changed."""

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """A service has gone."""


def find(kind: str, key: str, value: str, timeout_s: float) -> list[tuple[str, int]]:
    """Addresses of the first service of this kind that says `key` is `value`; none where none does."""
    try:
        zeroconf = Zeroconf(interfaces=InterfaceChoice.All)
    except (OSError, ZeroconfError):
        return []
    try:
        seen = _Seen()
        ServiceBrowser(zeroconf, kind, listener=seen)
        end, asked = time.monotonic() + timeout_s, 0
        while time.monotonic() < end:
            for name in seen.names[asked:]:
                asked += 1
                info = zeroconf.get_service_info(kind, name, ASK_MS)
                if info is not None and info.properties.get(key.encode()) == value.encode():
                    return [(str(a), int(info.port or 0)) for a in _reachable_first(info)]
            time.sleep(0.05)
        return []
    finally:
        zeroconf.close()


def _reachable_first(info: ServiceInfo) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """A machine's addresses, those in one of our own networks first."""
    networks = [
        ipaddress.ip_network(f"{one.address}/{one.netmask}", strict=False)
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET and one.netmask
    ]
    addresses = [ipaddress.ip_address(raw) for raw in info.addresses]
    return sorted(addresses, key=lambda address: not any(address in one for one in networks))


def _addresses() -> list[ipaddress.IPv4Address]:
    """This machine's addresses that others could reach; its own loop where there is none."""
    found = [
        ipaddress.IPv4Address(one.address)
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET
    ]
    return [address for address in found if not address.is_loopback] or found
