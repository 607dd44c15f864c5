"""Starts an upstream that is asleep or off, before it can answer.

Knows how a machine is woken by its network card. Refuses to know when that is worth it (`decision`) and
how an upstream says that it is ready (`health`).
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

from dure.route.upstream import Upstream

__all__ = ["Starter", "Wake", "magic_packet"]

_PORT = 9  # "discard": nothing but network cards listens
_BROADCAST = "255.255.255.255"


class Starter(Protocol):
    """Brings up an upstream, and says where it is reached then."""

    async def start(self, upstream: Upstream) -> str:
        """Begin to start it and return its URL. Called again while it does not answer; raises DureError."""


class Wake:
    """Wakes a sleeping machine by its network card (Wake-on-LAN)."""

    def __init__(self, address: str = _BROADCAST, port: int = _PORT) -> None:
        self._to = (address, port)

    async def start(self, upstream: Upstream) -> str:
        """Broadcast the magic packet of its network card."""
        assert upstream.wake is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setblocking(False)
            with suppress(
                OSError
            ):  # as on a machine whose network is down: the next call tries again
                await asyncio.get_running_loop().sock_sendto(
                    sock, magic_packet(upstream.wake), self._to
                )
        return upstream.url


def magic_packet(mac: str) -> bytes:
    """Return the packet that a network card wakes its machine for. Source: AMD's white paper 20213."""
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "").replace("-", "")) * 16
