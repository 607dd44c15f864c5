"""How surely a link to a node carries packets: measured by TCP handshakes, whose repeats the kernel counts.

Either direction counts: a handshake is repeated if its question or its answer was lost.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

from dure.cluster.root.membership import Member
from dure.errors import ClusterError

__all__ = ["HANDSHAKES", "lost_handshakes"]

HANDSHAKES = 300
_AT_ONCE = 16
_PATIENCE_S = 10.0
_NO_TLS = (
    b"\n" * 16
)  # the node hangs up, once it has accepted: its queue of connections stays short
_TOTAL_RETRANS = (
    100  # linux/tcp.h: where tcp_info has it, 8 small fields and 23 of 4 bytes before it
)


def lost_handshakes(member: Member) -> int:
    """Return how many packets of `HANDSHAKES` handshakes with a node were lost. Raises ClusterError."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return sum(threads.map(_lost, [member] * HANDSHAKES))


def _lost(member: Member) -> int:
    try:
        with socket.create_connection((member.host, member.port), _PATIENCE_S) as connected:
            with contextlib.suppress(ConnectionError):
                connected.sendall(_NO_TLS)
                connected.recv(1)
            info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS + 4)
    except OSError as error:
        raise ClusterError(f"{member.name} does not answer: {error}") from error
    (repeated,) = struct.unpack_from("I", info, _TOTAL_RETRANS)
    return int(repeated)
