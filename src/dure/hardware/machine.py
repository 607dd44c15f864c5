"""What a machine is: facts, nothing else. The one module that probes is `probe`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
    """This machine as it is now.

    cores: that this process may use; hyper-threads of one core count once.
    features: of its processor, as `Platform` has them.
    memory_bytes: in all. available_bytes: that could be had without swapping.
    cpu_limit, memory_limit: what of a container or a service makes these less than the machine has; "" if
    nothing does.
    """

    cores: int
    memory_bytes: int
    available_bytes: int
    features: tuple[str, ...] = ()
    cpu_limit: str = ""
    memory_limit: str = ""

    @property
    def limits(self) -> tuple[str, ...]:
        """What holds dure to less than the machine has."""
        return tuple(filter(None, (self.cpu_limit, self.memory_limit)))
