"""How machines find each other on a network without being given addresses: mDNS.

Knows names of services. Refuses to believe them: whoever answers must prove who it is by TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import queue
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import psutil
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

__all__ = ["JOIN_SERVICE", "NODE_SERVICE", "Address", "announced", "found"]

T = TypeVar("T")
Address = tuple[str, int]

JOIN_SERVICE = "_dure-join._tcp.local."
NODE_SERVICE = "_dure-node._tcp.local."
ASK_MS = 1000
AT_ONCE = 16  # addresses of one machine, the likeliest first
REGISTER_S = 10.0
CHECK_EVERY_S = 5.0  # whether this machine's addresses have changed


@contextmanager
def announced(kind: str, name: str, port: int, properties: dict[str, str]) -> Iterator[bool]:
    """Announce a service while the block runs, also when this machine's addresses change.

    Yields whether the network allows that.
    """
    announcement = _Announcement(kind, name, port, properties)
    is_announced = announcement.begin()
    ended = threading.Event()
    watch = threading.Thread(target=announcement.follow, args=(ended,), daemon=True)
    watch.start()
    try:
        yield is_announced
    finally:
        ended.set()
        watch.join()
        announcement.end()


class _Announcement:
    """Announce one service, under the addresses that this machine has now."""

    def __init__(self, kind: str, name: str, port: int, properties: dict[str, str]) -> None:
        self._kind, self._name, self._port, self._properties = kind, name, port, properties
        self._zeroconf: Zeroconf | None = None
        self._repeats: asyncio.Task[None] | None = None
        self._addresses: list[ipaddress.IPv4Address] = []

    def begin(self) -> bool:
        """Announce it; return if the network allows that."""
        self._addresses = _addresses()
        info = ServiceInfo(
            self._kind,
            f"{self._name}.{self._kind}",
            port=self._port,
            addresses=[address.packed for address in self._addresses],
            properties=dict(self._properties),
            server=f"{self._name}.local.",
        )
        try:
            self._zeroconf = Zeroconf(interfaces=InterfaceChoice.All)
            self._repeats = _registered(self._zeroconf, info)
        except (OSError, ZeroconfError):
            self.end()
            return False
        return True

    def follow(self, ended: threading.Event) -> None:
        """Announce it again whenever the addresses have changed: sockets belong to addresses."""
        while not ended.wait(CHECK_EVERY_S):
            if _addresses() != self._addresses:
                self.end()
                self.begin()

    def end(self) -> None:
        """Withdraw it."""
        if self._zeroconf is not None:
            with contextlib.suppress(OSError, ZeroconfError):  # the network is gone
                if self._repeats is not None and self._zeroconf.loop is not None:
                    self._zeroconf.loop.call_soon_threadsafe(self._repeats.cancel)
                self._zeroconf.close()
            self._zeroconf = self._repeats = None


def _registered(zeroconf: Zeroconf, info: ServiceInfo) -> asyncio.Task[None]:
    """Announce a service under a name that is free; return the task that repeats it for half a second."""
    assert zeroconf.loop is not None, "it runs in a thread of its own"
    registering = zeroconf.async_register_service(info, allow_name_change=True)
    done = asyncio.run_coroutine_threadsafe(registering, zeroconf.loop)
    return cast("asyncio.Task[None]", done.result(REGISTER_S))


class _ServiceNames(ServiceListener):
    """Collect names; what they mean is asked later, in the caller's thread."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:  # noqa: ARG002
        """Note a service that has come."""
        self.names.append(name)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Ignore a service that has changed."""

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Ignore a service that has gone."""


def found(
    kind: str, key: str, value: str, timeout_s: float, proven: Callable[[Address], T | None]
) -> T | None:
    """Return what a service of a kind, whose `key` is `value`, proves at one of its addresses.

    proven: asks whoever answers at an address who they are; None if they cannot prove it. All addresses of
    a machine are asked at once, as some may lead nowhere: those of containers, tunnels and other networks.
    None if nothing is proven, timeout_s after the last service has been seen.
    """
    with contextlib.closing(_seen(kind, key, value, timeout_s)) as services:
        for addresses in services:
            if (proof := _first_proof(addresses, proven)) is not None:
                return proof
    return None


def _seen(
    kind: str, key: str, value: str, timeout_s: float
) -> Generator[list[Address], None, None]:
    """Yield the addresses of every such service that is seen in time."""
    try:
        zeroconf = Zeroconf(interfaces=InterfaceChoice.All)
    except (OSError, ZeroconfError):
        return
    try:
        services = _ServiceNames()
        ServiceBrowser(zeroconf, kind, listener=services)
        end, n_asked = time.monotonic() + timeout_s, 0
        while time.monotonic() < end:
            for name in services.names[n_asked:]:
                n_asked += 1
                info = zeroconf.get_service_info(kind, name, ASK_MS)
                if info is not None and info.properties.get(key.encode()) == value.encode():
                    yield [(str(a), int(info.port or 0)) for a in _reachable_first(info)]
            time.sleep(0.05)
    finally:
        zeroconf.close()


def _first_proof(addresses: Sequence[Address], proven: Callable[[Address], T | None]) -> T | None:
    """Return the first proof that comes from any address; what still waits then is left to itself."""
    proofs: queue.SimpleQueue[T | None] = queue.SimpleQueue()

    def ask(address: Address) -> None:
        proof = None
        try:
            proof = proven(address)
        finally:
            proofs.put(proof)

    asked = addresses[:AT_ONCE]
    for address in asked:
        threading.Thread(target=ask, args=(address,), daemon=True).start()
    answers = (proofs.get() for _ in asked)
    return next((proof for proof in answers if proof is not None), None)


def _reachable_first(info: ServiceInfo) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return a machine's addresses, those in one of this machine's own networks first."""
    networks = [
        ipaddress.ip_network(f"{one.address}/{one.netmask}", strict=False)
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family == socket.AF_INET and one.netmask
    ]
    addresses = [ipaddress.ip_address(raw) for raw in info.addresses]
    return sorted(addresses, key=lambda address: not any(address in one for one in networks))


def _addresses() -> list[ipaddress.IPv4Address]:
    """Return this machine's addresses that others could reach; its loopback if it has no others."""
    addresses = [
        ipaddress.IPv4Address(one.address)
        for some in psutil.net_if_addrs().values()
        for one in some
        if one.family == socket.AF_INET
    ]
    return [address for address in addresses if not address.is_loopback] or addresses
