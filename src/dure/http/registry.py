"""Lists the servers that run on this machine, for `dure ps` and `dure stop`: one small file each.

Knows processes by id and start time, so that an id that is used again is never mistaken.
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
import psutil

from dure.places import runtime_directories, runtime_directory

__all__ = ["RunningServer", "registered", "running_servers"]

_log = logging.getLogger("dure.serve")
_SAME_START_S = 2.0  # start times are computed from the clock, which may be set


class RunningServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server as other processes find it; times are seconds since 1970.

    url: `http://127.0.0.1:8080`, or `unix:/path`. process_started: when its process was started.
    key: an API key for this user's own commands; "" if the server wants none.
    """

    pid: int
    process_started: float
    url: str
    model: str
    started: float
    key: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            gone = process.status() == psutil.STATUS_ZOMBIE
            return not gone and abs(process.create_time() - self.process_started) < _SAME_START_S
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:  # it is there, but another user's
            return True


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
def registered(url: str, model: str, started: float, key: str = "") -> Iterator[None]:
    """List this process as serving at `url` until the block ends.

    If the file cannot be written the server runs all the same, and the log says so.
    """
    server = RunningServer(
        pid=os.getpid(),
        process_started=psutil.Process().create_time(),
        url=url,
        model=model,
        started=started,
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
