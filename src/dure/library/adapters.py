"""The adapters (LoRA) of a running model, as a program has them: by number, with scales.

Knows that ranks load one between two steps. Refuses to know what an adapter changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dure.engine.adapters import MOST_SCALE, AdapterSet, adapter_set, is_scale
from dure.errors import UsageError
from dure.library.shared_loop import SharedLoop

__all__ = ["RunningAdapters"]


class RunningAdapters:
    """Loads adapters, and keeps the scales of answers that do not say any.

    load: loads a file into every rank, and returns its number. scales: of those that are loaded.
    """

    def __init__(
        self, loop: SharedLoop, load: Callable[[Path], int], scales: Sequence[float]
    ) -> None:
        self._loop, self._load, self._scales = loop, load, list(scales)

    def load(self, path: Path, scale: float) -> int:
        """Load an adapter while no step is computed; return its number."""
        _check_scale(scale)
        number = self._loop.between_steps(lambda: self._load(path))
        self._scales.append(scale)
        return number

    def chosen(self, scales: Mapping[int, float] | None) -> AdapterSet:
        """Return the adapters of an answer; None: as the model was opened. Raises UsageError."""
        if scales is None:
            return adapter_set(enumerate(self._scales))
        for number, scale in scales.items():
            _check_scale(scale)
            if not 0 <= number < len(self._scales):
                raise UsageError(
                    f"lora: there is no adapter {number}",
                    f"{len(self._scales)} are loaded, from 0 on",
                )
        return adapter_set(scales.items())


def _check_scale(scale: float) -> None:
    if not is_scale(scale):
        most = f"{MOST_SCALE:g}"
        raise UsageError(f"lora: a scale of {scale}", f"give a number from -{most} to {most}")
