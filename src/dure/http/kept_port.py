"""Gives each server's page a port of its own on this machine, the same whenever the page is shown.

A browser keeps what belongs to a page by its address, so conversations are there again only at the same
port. Refuses to know what is served there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dure.errors import ResourceError
from dure.http.binding import bound
from dure.http.settings import ServerSettings
from dure.whole_file import write_whole

__all__ = ["KeptPort", "kept_port"]

_FIRST, _NUMBER = 20_000, 10_000  # below the ports that systems give to connections
_TRIES = 50


@dataclass(frozen=True)
class KeptPort:
    """A port that was free a moment ago. taken: why it is not the one that the page had; "" if it is."""

    port: int
    taken: str = ""


def kept_port(url: str, file: Path) -> KeptPort:
    """Return the port for the page of a server. file: which remembers the ports, by their servers' URLs.

    Raises ResourceError if none of many is free.
    """
    known = _read(file)
    port, taken = _free(_candidates(url, known))
    if url not in known:
        with suppress(OSError):  # next time it is found in the same way
            write_whole(file, msgspec.json.encode({**known, url: port}), private=True)
    return KeptPort(port, taken)


def _candidates(url: str, known: Mapping[str, int]) -> Iterator[int]:
    """Yield the port that a page had, or should have, then others that belong to no other page."""
    digest = hashlib.sha256(url.encode()).digest()
    first = known.get(url, _FIRST + int.from_bytes(digest[:4]) % _NUMBER)
    others = {port for other, port in known.items() if other != url}
    for n in range(_TRIES):
        if (port := _FIRST + (first - _FIRST + n) % _NUMBER) not in others:
            yield port


def _free(candidates: Iterator[int]) -> tuple[int, str]:
    """Return the first free port, and why the very first is not free. Raises ResourceError."""
    problems: list[ResourceError] = []
    for port in candidates:
        try:
            with bound(ServerSettings(port=port)):
                return port, problems[0].problem if problems else ""
        except ResourceError as error:
            problems.append(error)
    raise problems[0]


def _read(file: Path) -> dict[str, int]:
    """Return the ports that are remembered; none if the file is not there, or damaged."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return {url: port for url, port in found.items() if _FIRST <= port < _FIRST + _NUMBER}
