"""Chooses among the servers that run here, as a person names them."""

from __future__ import annotations

from dure.errors import UsageError
from dure.http.registry import RunningServer, running_servers

__all__ = ["the_servers"]


def the_servers(named: str | None, choose: str, without: str = "") -> list[RunningServer]:
    """Return the servers of this name, or the only one. named: model, URL, port or process ID.

    choose: what to do if several run and none is named. without: those of this model do not count.
    Raises UsageError if there is none.
    """
    running = [one for one in running_servers() if not without or one.model != without]
    if not running:
        raise UsageError("no server runs here")
    listing = ", ".join(f"{one.model} at {one.url}" for one in running)
    if named is None and len(running) > 1:
        raise UsageError(f"{len(running)} servers run ({listing})", choose)
    found = [one for one in running if named is None or named in _names(one)]
    if not found:
        raise UsageError(f"no server {named} runs", f"running: {listing}")
    return found


def _names(server: RunningServer) -> tuple[str, ...]:
    port = server.url.rpartition(":")[2].strip("/")
    return (server.model, server.url, port, str(server.pid))
