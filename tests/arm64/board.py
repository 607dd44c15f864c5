"""The boards that are emulated: what dure is compiled for, and the processor that runs it.

`cpuinfo/` has what /proc/cpuinfo names of each processor, written by hand, not recorded: emulators of a
program show this machine's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["BOARDS", "Board"]


@dataclass(frozen=True, slots=True)
class Board:
    """A Raspberry Pi. arch: for the compiler's -march. cpu: QEMU's name of its processor."""

    name: str
    arch: str
    cpu: str

    @property
    def cpuinfo(self) -> Path:
        """Return the file that stands in for the board's /proc/cpuinfo."""
        return Path(__file__).parent / "cpuinfo" / self.name

    @property
    def venv(self) -> Path:
        """Return where dure is installed for it, inside the root."""
        return Path("/opt") / self.name


BOARDS = {
    board.name: board
    for board in (
        Board("pi5", "armv8.2-a+dotprod+fp16", "cortex-a76"),
        Board("pi4", "armv8-a", "cortex-a72"),
    )
}
