"""The least time that memory and network allow for a token.

Knows which weights a token reads and what the ranks exchange. Refuses to know how long one really takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dure.engine.executor import Instruments
from dure.engine.wire import Wire
from dure.model.architectures import shape_of
from dure.model.gguf import GgufFile

__all__ = ["FloorProbe", "FloorTimes", "TokenFloor", "bytes_used"]


@dataclass(frozen=True)
class FloorTimes:
    """Milliseconds per token: to read the weights from memory, and to exchange all partial sums."""

    memory: float
    sums: float


@dataclass(frozen=True)
class TokenFloor:
    """The floor, and what it is computed from: each rank's reading speed, and the time of one exchange."""

    floor_ms: FloorTimes
    read_gb_per_s: list[float]
    exchange_us: float


class FloorProbe:
    """Measures the floor again and again: a machine's memory may be twice as fast at times."""

    def __init__(self, instruments: Instruments, gguf: GgufFile, wire: Wire) -> None:
        shape = shape_of(gguf)
        most, part = bytes_used(gguf)
        self._instruments = instruments
        self._reads = [min(rank.weights_bytes, most) * part for rank in instruments.facts()]
        self._sum_bytes = shape.n_embd * 4 if wire is Wire.F32 else shape.n_embd * 34 // 32
        self._n_sums = 2 * shape.n_layer
        self._probes: list[tuple[list[float], float]] = []

    def measure(self) -> None:
        """Measure memory and network once more."""
        self._probes.append(self._instruments.probe(self._sum_bytes))

    def floor(self) -> TokenFloor:
        """Return the medians of what was measured."""
        speeds = np.array([read for read, _ in self._probes])
        exchange_s = float(np.median([exchange for _, exchange in self._probes]))
        memory_s = float(np.median(np.max(self._reads / speeds, axis=1)))
        return TokenFloor(
            FloorTimes(memory=1e3 * memory_s, sums=1e3 * self._n_sums * exchange_s),
            [float(speed) / 1e9 for speed in np.median(speeds, axis=0)],
            1e6 * exchange_s,
        )


def bytes_used(gguf: GgufFile) -> tuple[int, float]:
    """Return the bytes of weights that tokens need, and the part of them that one token reads.

    The embedding table counts only if it is the output matrix too: one row of it is nothing. Of a mixture
    of experts, a token reads only the experts that it uses.
    """
    tables = {"token_embd.weight"} if "output.weight" in gguf.tensors else set[str]()
    total = sum(t.size_bytes for name, t in gguf.tensors.items() if name not in tables)
    experts = sum(t.size_bytes for name, t in gguf.tensors.items() if "_exps." in name)
    prefix = gguf.architecture
    n = gguf.int(f"{prefix}.expert_count", 0)
    used = gguf.int(f"{prefix}.expert_used_count", n)
    return total, 1 - experts / total * (1 - used / n) if n else 1.0
