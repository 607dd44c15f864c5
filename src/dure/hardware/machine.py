"""What a machine is: facts, nothing else. The one module that probes is `probe`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """This machine as it is now.

    cores: that this process may use; hyper-threads of one core count once.
    memory_bytes: in all. available_bytes: that could be had without swapping.
    """

    cores: int
    memory_bytes: int
    available_bytes: int
