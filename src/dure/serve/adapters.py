"""The adapters (LoRA) of a served model, and the scales that hold for requests which do not say any.

Knows their numbers. Refuses to know HTTP, and what an adapter changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dure.deploy.options import AdapterFile
from dure.engine.adapters import AdapterSet, adapter_set
from dure.errors import ParameterError

__all__ = ["AdapterVariant", "ServedAdapters"]


@dataclass(frozen=True)
class AdapterVariant:
    """What a request's `model` can name: the model, or the model with one adapter. name: that is shown."""

    name: str
    adapters: AdapterSet


class ServedAdapters:
    """Adapters by number, from 0 on. scales: of each, for requests that do not say.

    names: those of their files; of a name that comes again, with the number.
    """

    def __init__(self, files: Sequence[AdapterFile] = ()) -> None:
        self.paths = tuple(file.path for file in files)
        self.scales = tuple(file.scale for file in files)
        self.names = _names([Path(path).stem for path in self.paths])
        self._alone = tuple(file.scale or 1.0 for file in files)

    @property
    def active(self) -> AdapterSet:
        """What a request that does not say is computed with."""
        return adapter_set(enumerate(self.scales))

    def variants(self, model: str) -> list[AdapterVariant]:
        """Return the model with each adapter alone, at the strength of its option; one of 0 counts as 1."""
        pairs = enumerate(zip(self.names, self._alone, strict=True))
        return [
            AdapterVariant(f"{model}:{name}", adapter_set([(n, scale)]))
            for n, (name, scale) in pairs
        ]

    def chosen(self, scales: Iterable[tuple[int, float]], param: str) -> AdapterSet:
        """Return some adapters, by number, with scales; the others are not used.

        Raises ParameterError, naming the parameter, if one is not there.
        """
        pairs = list(scales)
        n = len(self.paths)
        for number, _ in pairs:
            if number >= n:
                cure = f"only 0 to {n - 1}" if n else "start the server with --lora FILE"
                raise ParameterError(param, f"{param}: there is no adapter {number}", cure)
        return adapter_set(pairs)

    def change(self, scales: Iterable[tuple[int, float]], param: str) -> None:
        """Set the scales of requests that do not say any. Raises ParameterError as `chosen`."""
        given = dict(self.chosen(scales, param))
        self.scales = tuple(given.get(number, 0.0) for number in range(len(self.paths)))


def _names(stems: Sequence[str]) -> tuple[str, ...]:
    return tuple(stem if stem not in stems[:n] else f"{stem}-{n}" for n, stem in enumerate(stems))
