"""Lists the servers that run on this machine, for `dure ps` and `dure stop`: one small file each.

Knows processes by id and identity, so that an id that is used again is never mistaken.
Refuses to know what a server does.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from dure.places import runtime_directories, runtime_directory
from dure.processes import identity_of, since_boot_s

__all__ = ["PAGE", "RunningServer", "registered", "running_servers"]

PAGE = "ui"
"""The model of what runs no model: `dure ui`, which hands all on to another server."""

_log = logging.getLogger("dure.serve")


class RunningServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server as other processes find it.

    process: its identity, beside its number. url: `http://127.0.0.1:8080`, or `unix:/path`. started: in
    seconds since the machine's start. key: an API key for this user's own commands; "" if the server wants
    none.
    """

    pid: int
    process: str
    url: str
    model: str
    started: float
    key: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return identity_of(self.pid) == self.process


def running_servers(directory: Path | None = None) -> list[RunningServer]:
    """Return the servers that run, oldest first, and remove the files of those that do not."""
    found = []
    places = [directory] if directory else runtime_directories()
    for path in [path for place in places for path in sorted(place.glob("*.json"))]:
        server = _read(path)
        if server is not None and server.is_alive:
            found.append(server)
        else:
            with suppress(OSError):
                path.unlink()
    return sorted(found, key=lambda server: server.started)


def _read(path: Path) -> RunningServer | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunningServer)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


@contextmanager
def registered(url: str, model: str, key: str = "") -> Iterator[None]:
    """List this process as serving at `url` until the block ends.

    If the file cannot be written the server runs all the same, and the log says so.
    """
    server = RunningServer(
        pid=os.getpid(),
        process=identity_of(os.getpid()),
        url=url,
        model=model,
        started=since_boot_s(),
        key=key,
    )
    path = _write(server)
    try:
        yield
    finally:
        if path:
            with suppress(OSError):
                path.unlink()


def _write(server: RunningServer) -> Path | None:
    directory = runtime_directory()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{server.pid}-", suffix=".part", dir=directory)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(server))
        return Path(name).rename(Path(name).with_suffix(".json"))
    except OSError as error:
        _log.warning("`dure ps` will not show this server: %s: %s", directory, error.strerror)
        return None
