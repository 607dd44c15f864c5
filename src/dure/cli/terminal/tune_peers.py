"""`dure tune` as one of several processes, or as the one that starts them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dure.cli.terminal.stop_signals import StopSignals
from dure.errors import DureError, UsageError
from dure.tune.peers.environment import is_first, is_ours, n_started

if TYPE_CHECKING:
    from dure.tune.loop.events import RunEnded
    from dure.tune.peers.group import Peers

__all__ = ["goes_on_alone", "one_of_several", "run_on_gpus"]


@contextmanager
def one_of_several() -> Iterator[tuple[Peers, StopSignals]]:
    """Yield the processes of this run, alone mostly, and what Ctrl-C has told this one.

    An error that several have is told by one of them.
    """
    from dure.tune.peers.group import joined

    with joined() as peers, StopSignals(hears_second=n_started() == 1) as stop:
        try:
            yield peers, stop
        except DureError as error:
            if not peers.is_teller(error):
                raise typer.Exit(error.exit_code) from None
            raise


def goes_on_alone() -> bool:
    """Return whether this process makes what is wanted of the result: others end with the run."""
    return is_first() and not is_ours()


def run_on_gpus(n: int, target: Path) -> RunEnded:
    """Run this command in a process for each GPU; return what the run led to.

    Raises UsageError if there are fewer GPUs, Exit if the run failed: the processes have told why.
    """
    import torch

    from dure.tune.loop.run import finished_run
    from dure.tune.peers.starting import run_together

    if (found := torch.cuda.device_count()) < n:
        raise UsageError(
            f"--gpus {n}: torch finds {found or 'no GPU'}",
            f"use --gpus {found}" if found > 1 else "leave it out",
        )
    with StopSignals() as stop:
        words = [sys.executable, "-m", "dure", *sys.argv[1:]]
        if code := run_together(words, n, lambda: stop.number):
            raise SystemExit(code)
    return finished_run(target)
