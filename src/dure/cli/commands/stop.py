"""`dure stop`: stops servers on this machine, once they have finished running answers."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

from dure.cli.terminal.console import errors, printable
from dure.cli.terminal.server_choice import the_servers
from dure.errors import EngineError, ResourceError
from dure.http.registry import PAGE, RunningServer, running_servers

__all__ = ["stop"]

POLL_EVERY_S = 0.1


def stop(
    server: Annotated[
        str | None,
        typer.Argument(help="Model, URL, port or process ID, as `dure ps` shows them."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Stop every server.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for running answers.")] = 60.0,
) -> None:
    """Stop a server: it takes no new requests and finishes running answers.

    Without an argument, stop the only server that runs.

    Example: dure stop dure-demo
    """
    for one in _chosen(server, everything):
        _stop(one, timeout)


def _chosen(named: str | None, everything: bool) -> list[RunningServer]:
    if everything:
        return running_servers()
    return the_servers(named, "name one, or give --all", without="" if named else PAGE)


def _stop(server: RunningServer, timeout_s: float) -> None:
    name = printable(f"{server.model} at {server.url}")
    try:
        os.kill(server.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise ResourceError(f"{name} is another user's", "ask them, or use sudo") from None
    errors.print(f"{name} finishes running answers", markup=False)
    end = time.monotonic() + timeout_s
    while server.is_alive:
        if time.monotonic() > end:
            raise EngineError(
                f"{name} still runs after {timeout_s:g} s", f"wait, or `kill -9 {server.pid}`"
            )
        time.sleep(POLL_EVERY_S)
    errors.print(f"{name} has stopped", markup=False)
