"""How machines find each other on a network without being told addresses: mDNS.

Knows names of services. Refuses to believe them: whoever answers must prove who it is by TLS.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
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
LOOK_EVERY_S = 5.0  # at this machine's addresses


@contextmanager
def announced(kind: str, name: str, port: int, told: dict[str, str]) -> Iterator[bool]:
    """A service is announced while the block runs, also when this machine's addresses change.

    False where the network allows no announcing.
    """
    announcing = _Announcing(kind, name, port, told)
    is_announced = announcing.begin()
    ended = threading.Event()
    watch = threading.Thread(target=announcing.follow, args=(ended,), daemon=True)
    watch.start()
    try:
        yield is_announced
    finally:
        ended.set()
        watch.join()
        announcing.end()


class _Announcing:
    """One service, under the addresses that this machine has now."""

    def __init__(self, kind: str, name: str, port: int, told: dict[str, str]) -> None:
        self._kind, self._name, self._port, self._told = kind, name, port, told
        self._zeroconf: Zeroconf | None = None
        self._addresses: list[ipaddress.IPv4Address] = []

    def begin(self) -> bool:
        """Announce it; whether the network allows that."""
        self._addresses = _addresses()
        info = ServiceInfo(
            self._kind,
            f"{self._name}.{self._kind}",
            port=self._port,
            addresses=[address.packed for address in self._addresses],
            properties=dict(self._told),
            server=f"{self._name}.local.",
        )
        try:
            self._zeroconf = Zeroconf(interfaces=InterfaceChoice.All)
            self._zeroconf.register_service(info, allow_name_change=True)
        except (OSError, ZeroconfError):
            self.end()
            return False
        return True

    def follow(self, ended: threading.Event) -> None:
        """Announce it anew whenever the addresses have changed: sockets belong to addresses."""
        while not ended.wait(LOOK_EVERY_S):
            if _addresses() != self._addresses:
                self.end()
                self.begin()

    def end(self) -> None:
        """Announce it no more."""
        if self._zeroconf is not None:
            with contextlib.suppress(OSError, ZeroconfError):  # the network is gone
                self._zeroconf.close()
            self._zeroconf = None


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
