"""The settings of a server: plain values, checked once.

Knows every limit and its default. Refuses to know how one is enforced, and where it was set: the command
line maps flags, environment and file to these fields.
"""

from __future__ import annotations

import ipaddress
import math
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dure.errors import UsageError

__all__ = ["LogFormat", "ServerSettings", "check_binding", "is_public"]

LogFormat = Literal["text", "json"]

MiB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a server is set up. Raises UsageError naming the value that is invalid.

    host: an address, a name, or `unix:PATH`. port 0: any that is free.
    aliases: names of the model besides its own, the first is the one that is shown.
    api_keys: `name:key` or `key` each; api_key_file: the same, one a line, read again when it changes.
    cors_origins: web pages that may call, as `https://chat.example`, `localhost` for every page of this
    machine at any port, or `*`; none by default.
    requests_per_minute, tokens_per_minute: of every key (of every address, if there are no keys).
    max_waiting: requests of a key that wait for the engine (of an address, if there are no keys); more are
    answered 429.
    header_timeout_s: from connecting to the request's last header.
    body_timeout_s: for a request's body, and another second for every KiB of it.
    idle_timeout_s: how long a connection is kept between requests.
    slow_client_timeout_s: how long a client may leave its answer unread.
    keep_alive_comment_s: silence after which a stream gets a comment.
    keep_alive_event_s: silence, comments aside, after which it gets an event that adds nothing.
    deadline_s: how long running answers may go on once the server stops.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    aliases: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors_origins: tuple[str, ...] = ()
    max_connections: int = 1024
    max_body_bytes: int = 16 * MiB
    max_header_bytes: int = 64 * 1024
    max_prompt_tokens: int | None = None
    max_waiting: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    slow_client_timeout_s: float = 30.0
    keep_alive_comment_s: float = 5.0
    keep_alive_event_s: float = 20.0
    deadline_s: float = 30.0
    insecure: bool = False
    log_format: LogFormat = "text"
    log_file: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port}", "give a number from 0 (any free port) to 65535")
        if (self.tls_key is None) != (self.tls_cert is None):
            raise UsageError("TLS needs both files: the certificate and its key")
        if self.log_format not in {"text", "json"}:
            raise UsageError(f"log format {self.log_format}", "give text or json")
        for name, lowest in _LOWEST.items():
            _check_number(name, getattr(self, name), lowest)
        for origin in self.cors_origins:
            _check_origin(origin)

    @property
    def has_keys(self) -> bool:
        """Whether callers must show a key."""
        return bool(self.api_keys) or self.api_key_file is not None

    @property
    def unix_socket(self) -> Path | None:
        """The socket's path, if the host is `unix:PATH`."""
        path = self.host.removeprefix("unix:")
        return Path(path) if path != self.host else None


_LOWEST: dict[str, float] = {
    "max_connections": 1,
    "max_body_bytes": 1024,
    "max_header_bytes": 1024,
    "max_prompt_tokens": 1,
    "max_waiting": 0,
    "requests_per_minute": 0.001,
    "tokens_per_minute": 0.001,
    "header_timeout_s": 0.1,
    "body_timeout_s": 0.1,
    "idle_timeout_s": 0.1,
    "slow_client_timeout_s": 0.1,
    "keep_alive_comment_s": 0.01,
    "keep_alive_event_s": 0.01,
    "deadline_s": 0,
}


def _check_number(name: str, value: float | None, lowest: float) -> None:
    if value is None or (math.isfinite(value) and value >= lowest):
        return
    raise UsageError(f"{name} {value:g} makes no sense", f"give a number of {lowest:g} or more")


def _check_origin(origin: str) -> None:
    scheme, separator, rest = origin.partition("://")
    if origin in ("*", "localhost") or (scheme and separator and rest and "/" not in rest):
        return
    raise UsageError(f"origin {origin}", "give https://chat.example, or localhost, or *")


def check_binding(settings: ServerSettings) -> None:
    """Raise UsageError if anyone on the network could use the server without a key."""
    if settings.has_keys or settings.insecure or not is_public(settings):
        return
    raise UsageError(
        f"host {settings.host} can be reached from other machines, and no API key is set",
        "give --api-key-file or --api-key, or say --insecure if everyone may use this machine",
    )


def is_public(settings: ServerSettings) -> bool:
    """Return whether other machines can reach the server: an address of the host is no loopback one.

    Raises UsageError if the host has no address at all.
    """
    if settings.unix_socket:
        return False
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(
            f"host {settings.host} is not known", "give an address of this machine, as 127.0.0.1"
        ) from None
    addresses = (str(entry[4][0]).partition("%")[0] for entry in found)
    return not all(ipaddress.ip_address(address).is_loopback for address in addresses)
