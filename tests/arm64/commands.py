"""Runs what makes and fills the root: quietly, with the last words of what failed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Arm64Error", "run", "say"]

LAST_LINES = 15


class Arm64Error(Exception):
    """It cannot go on: the problem, and the cure."""


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)  # noqa: T201


def run(
    what: str, argv: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Say what is done, run it with its output in a file, and say how long it took.

    Raises Arm64Error with the last lines if the command fails.
    """
    say(f"  {what} …")
    began = time.monotonic()
    with log.open("wb") as file:
        done = subprocess.run(
            list(map(str, argv)),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        words = "\n".join(f"    {line}" for line in lines)
        raise Arm64Error(
            f"`{argv[0]}` ended with status {done.returncode}:\n{words}\n  (all: {log})"
        )
    say(f"    {time.monotonic() - began:.0f} s")
