"""What is told of a run before it begins, as plain values: they may come from another machine."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MemoryEstimate", "Room", "TunePlan"]

_HOLES = 0.25
"""Of what comes and goes, and what lies between: free pieces that are too small for the next tensor.

glibc looks for 96 bytes more than a tensor has, to find an address for it, so a hole never takes a tensor
of its own size again. Weights lie together, before all else, and have none. Pages of its own for each large
tensor would leave no holes, but cost a fifth more time (docs/LOG.md).
"""
_MIRROR_BYTES = 8  # of a weight that learns on a GPU, and of its gradient, in memory


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak. weights and learned: numbers of them. pass_bytes: what the passes keep, with the
    gradients. program: of the libraries themselves.
    """

    weights: int
    learned: int
    weight_bytes: int
    pass_bytes: int
    state_bytes: int
    program: int

    @property
    def gpu_bytes(self) -> int:
        """Return the bytes on a GPU, where the optimizer's state is not."""
        return self.weight_bytes + self.pass_bytes

    @property
    def beside_gpu_bytes(self) -> int:
        """Return the bytes of the process beside a GPU: with a copy of what learns, and gradients."""
        return self.program + max(
            self.weight_bytes, self.state_bytes + _MIRROR_BYTES * self.learned
        )

    @property
    def peak_bytes(self) -> int:
        """Return the bytes of the process, if it computes on the processor."""
        moving = round((1 + _HOLES) * (self.pass_bytes + self.state_bytes))
        return self.program + self.weight_bytes + moving


@dataclass(frozen=True)
class Room:
    """What is needed somewhere, and what there is for it. where: in words."""

    where: str
    needed_bytes: int
    available_bytes: int

    @property
    def is_enough(self) -> bool:
        """Return whether a run fits."""
        return self.needed_bytes <= self.available_bytes


@dataclass(frozen=True)
class TunePlan:
    """A run. rooms: of the device that computes, and of the processor's memory beside a GPU. switch: what
    makes it fit, if it does not: "" if nothing does. seconds: on this machine; None if it was not measured,
    as the run does not fit.
    """

    text: str
    notes: tuple[str, ...]
    device: str
    arithmetic: str
    steps: int
    tokens: int
    memory: MemoryEstimate
    rooms: tuple[Room, ...]
    switch: str
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Return whether memory is enough."""
        return all(room.is_enough for room in self.rooms)
