"""Which adapters (LoRA) are loaded, and which a step is computed with, as values.

Knows numbers and scales. Refuses to know files, and what an adapter changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "MOST_SCALE",
    "NO_ADAPTERS",
    "NO_NUMBERS",
    "AdapterNumbers",
    "AdapterSet",
    "Adapters",
    "adapter_set",
    "is_scale",
]

AdapterSet = tuple[tuple[int, float], ...]
"""Numbers of loaded adapters, each once and ascending, with their scales, which are not zero."""

NO_ADAPTERS: AdapterSet = ()
MOST_SCALE = 1e4
_FLOAT = struct.Struct("f")


def is_scale(number: float) -> bool:
    """Tell whether an adapter can have this scale; NaN is none."""
    return abs(number) <= MOST_SCALE


def adapter_set(scales: Iterable[tuple[int, float]]) -> AdapterSet:
    """Return a set of some adapters with their scales; of one that is named twice, the last counts.

    Scales are rounded to float32, as llama.cpp has them.
    """
    rounded = {number: float(_FLOAT.unpack(_FLOAT.pack(scale))[0]) for number, scale in scales}
    return tuple(sorted((number, scale) for number, scale in rounded.items() if scale))


@dataclass(frozen=True)
class AdapterNumbers:
    """The adapters that are loaded. n_given: the number that the next one gets if nobody says another.

    A number is not given twice: what was cached with an adapter that is gone is never taken for a later
    one's.
    """

    loaded: frozenset[int] = frozenset()
    n_given: int = 0

    def __contains__(self, number: object) -> bool:
        return number in self.loaded

    def plus(self, number: int) -> AdapterNumbers:
        """Return these with one more."""
        return AdapterNumbers(self.loaded | {number}, max(self.n_given, number + 1))

    def minus(self, number: int) -> AdapterNumbers:
        """Return these without one."""
        return AdapterNumbers(self.loaded - {number}, self.n_given)


NO_NUMBERS = AdapterNumbers()


class Adapters(Protocol):
    """Loads adapters into an executor's running ranks, and frees them.

    Between two steps, by the thread that makes them. The KV cache stays as it is.
    """

    def load_adapter(self, files: Sequence[str], number: int | None = None) -> int:
        """Load an adapter, and return its number: the first is 0. A step uses it if its batch says so.

        number: one that was never given; None: the next.

        files: the name of each rank's part of it, which lies beside the rank's weights; of a whole model
        the path.
        Raises ModelError if llama.cpp refuses it on a rank; nothing has changed then. Raises EngineError as
        the executor does.
        """

    def drop_adapter(self, number: int) -> None:
        """Free an adapter on every rank; its number is not given again. Raises EngineError."""
