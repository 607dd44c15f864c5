"""Takes the address that a server listens at, before anything else is started.

Knows sockets and why they are refused. Refuses to know what is served.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dure.errors import DureError, ResourceError, UsageError
from dure.http.settings import ServerSettings

__all__ = ["Binding", "bound"]

_BACKLOG = 2048
_VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "flannel")  # lead to this machine's own guests
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (told apart, not bound)


@dataclass(frozen=True)
class Binding:
    """Sockets that listen, and the addresses at which they are reached.

    url: for programs of this machine, `http://127.0.0.1:8080`, or `unix:/path`. urls: for a person, who
    may sit at another machine. port: the real one, if 0 was asked for.
    """

    sockets: tuple[socket.socket, ...]
    url: str
    urls: tuple[str, ...]
    port: int


@contextmanager
def bound(settings: ServerSettings) -> Iterator[Binding]:
    """Yield the server's sockets, and close them at the end.

    Raises UsageError for an address that is not this machine's, ResourceError for one that is taken.
    """
    path = settings.unix_socket
    binding = _bind_unix(path) if path else _bind_tcp(settings)
    try:
        yield binding
    finally:
        for sock in binding.sockets:
            sock.close()
        if path:
            path.unlink(missing_ok=True)


def _bind_tcp(settings: ServerSettings) -> Binding:
    """Return a socket for every address of the host, all at one port."""
    sockets: list[socket.socket] = []
    problem: DureError | None = None
    port = settings.port
    for family, address in _addresses(settings):
        try:
            sockets.append(_listen_tcp(family, address, port))
        except OSError as error:
            problem = _problem(error, settings, port)
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # such as ::1 on a machine without IPv6; another address may do
            _close(sockets)
            raise problem from None
        port = sockets[0].getsockname()[1]
    if not sockets:
        raise problem or UsageError(f"host {settings.host} has no address")
    return Binding(tuple(sockets), _url(settings, sockets[0]), _urls(settings, sockets), port)


def _addresses(settings: ServerSettings) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(
            settings.host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise UsageError(
            f"host {settings.host} is not known", "give an address of this machine, as 127.0.0.1"
        ) from None
    return list(dict.fromkeys((int(family), str(address[0])) for family, *_, address in found))


def _listen_tcp(family: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _problem(error: OSError, settings: ServerSettings, port: int) -> DureError:
    if error.errno == errno.EADDRINUSE:
        return ResourceError(
            f"port {port} is taken by {_holder(port)}", "choose another with --port"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ResourceError(f"port {port} is for root only", "choose one from 1024 with --port")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(
            f"host {settings.host} is no address of this machine", "give one that is, or 127.0.0.1"
        )
    return ResourceError(f"cannot listen at {settings.host} port {port}: {error.strerror}")


def _holder(port: int) -> str:
    """Return who listens at a port, as far as this user may know."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            taken = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if taken and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program"


def _url(settings: ServerSettings, sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return _written(settings, _WILDCARDS.get(host, host), port)


def _urls(settings: ServerSettings, sockets: Sequence[socket.socket]) -> tuple[str, ...]:
    """Return the addresses that others can use: those of this machine's links, for a wildcard."""
    found = []
    for sock in sockets:
        host, port = sock.getsockname()[:2]
        hosts = _own_addresses(sock.family) if host in _WILDCARDS else []
        found += [_written(settings, one, port) for one in hosts] or [_url(settings, sock)]
    return tuple(dict.fromkeys(found))


def _own_addresses(family: int) -> list[str]:
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return [
        one.address
        for name, addresses in psutil.net_if_addrs().items()
        if name in up and not name.startswith(_VIRTUAL)
        for one in addresses
        if one.family == family and _leads_here(one.address)
    ]


def _leads_here(address: str) -> bool:
    """Return whether other machines may reach an address as it is written."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_loopback or parsed.is_link_local)


def _written(settings: ServerSettings, host: str, port: int) -> str:
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _bind_unix(path: Path) -> Binding:
    """Return a socket in the file system that only this user may open."""
    _remove_dead(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        sock.bind(str(path))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen at {path}: {error.strerror or error}") from None
    finally:
        os.umask(old)
    sock.setblocking(False)
    url = f"unix:{path}"
    return Binding((sock,), url, (url,), 0)


def _remove_dead(path: Path) -> None:
    """Remove a socket that nobody listens at. Raises if somebody does, or if it is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path} is there and is no socket", "name another path after unix:")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"cannot listen at {path}: {error.strerror or error}") from None
        else:
            raise ResourceError(f"{path} is taken by another program", "name another path")
