"""What is told of a run before it begins, as plain values: they may come from another machine."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MemoryEstimate", "TunePlan"]

_HOLES = 0.15  # of the tensors: what the allocator keeps between them (bench/tune_plan.py)


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
    def model_bytes(self) -> int:
        """Return the bytes on the device that computes."""
        return self.weight_bytes + self.pass_bytes + self.state_bytes

    @property
    def peak_bytes(self) -> int:
        """Return the bytes of the process, if it computes on the processor."""
        return round((1 + _HOLES) * self.model_bytes) + self.program


@dataclass(frozen=True)
class TunePlan:
    """A run. available_bytes: of memory, or of the GPU's. switch: what makes it fit, if it does not: "" if
    nothing does. seconds: on this machine; None if it was not measured, as the run does not fit.
    """

    text: str
    notes: tuple[str, ...]
    device: str
    arithmetic: str
    steps: int
    tokens: int
    memory: MemoryEstimate
    needed_bytes: int
    available_bytes: int
    switch: str
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Return whether memory is enough."""
        return self.needed_bytes <= self.available_bytes
