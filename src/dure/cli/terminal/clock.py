"""Tells a node's user that the machine's clock is wrong, so that it believes nobody."""

from __future__ import annotations

from datetime import UTC, datetime

from dure.cli.terminal.console import errors
from dure.cluster.trust.clocks import hint
from dure.cluster.trust.identity import Credentials

__all__ = ["warn_of_clock"]


def warn_of_clock(own: Credentials) -> None:
    """Print how far the clock is off and how it is set; nothing if it is right."""
    if told := hint(own.loaded, datetime.now(UTC)):
        errors.print(told, style="yellow", markup=False, soft_wrap=True)
