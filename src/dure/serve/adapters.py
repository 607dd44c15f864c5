"""The adapters (LoRA) of a served model, and the scales that hold for requests which do not say any.

Knows their numbers. Refuses to know HTTP, and what an adapter changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dure.deploy.options import AdapterFile
from dure.engine.adapters import AdapterSet, adapter_set
from dure.errors import ParameterError

__all__ = ["AdapterVariant", "ServedAdapters"]


@dataclass(frozen=True)
class AdapterVariant:
    """What a request's `model` can name: the model, or the model with one adapter.

    name: that is shown. adapter: the adapter's own name; "" without one.
    """

    name: str
    adapter: str
    adapters: AdapterSet


@dataclass(frozen=True)
class _Served:
    """An adapter. scale: for requests that do not say; alone: for those that name it."""

    path: str
    name: str
    scale: float
    alone: float


class ServedAdapters:
    """Adapters by number, from 0 on: those of the options, and those that were added since.

    They are named by their files; of a name that comes again, with the number.
    """

    def __init__(self, files: Sequence[AdapterFile] = ()) -> None:
        names = _names([Path(file.path).stem for file in files])
        self._served = {
            number: _Served(file.path, name, file.scale, file.scale or 1.0)
            for number, (file, name) in enumerate(zip(files, names, strict=True))
        }

    def scales(self) -> dict[int, tuple[str, float]]:
        """Return file and scale of each, by number."""
        return {number: (one.path, one.scale) for number, one in self._served.items()}

    @property
    def active(self) -> AdapterSet:
        """What a request that does not say is computed with."""
        return adapter_set((number, one.scale) for number, one in self._served.items())

    def variants(self, model: str) -> list[AdapterVariant]:
        """Return the model with each adapter alone, at the strength of its option; one of 0 counts as 1."""
        return [
            AdapterVariant(f"{model}:{one.name}", one.name, adapter_set([(number, one.alone)]))
            for number, one in self._served.items()
        ]

    def number_of(self, name: str) -> int | None:
        """Return the number of the adapter with a name; None if there is none."""
        return next((n for n, one in self._served.items() if one.name == name), None)

    def add(self, number: int, path: str, name: str) -> None:
        """Serve an adapter that has been loaded to requests that name it, and to no others."""
        self._served[number] = _Served(path, name, 0.0, 1.0)

    def remove(self, number: int) -> None:
        """Serve an adapter no more."""
        del self._served[number]

    def chosen(self, scales: Iterable[tuple[int, float]], param: str) -> AdapterSet:
        """Return some adapters, by number, with scales; the others are not used.

        Raises ParameterError, naming the parameter, if one is not there.
        """
        pairs = list(scales)
        for number, _ in pairs:
            if number not in self._served:
                are = f"there are {', '.join(map(str, self._served))}"
                cure = are if self._served else "start the server with --lora FILE"
                raise ParameterError(param, f"{param}: there is no adapter {number}", cure)
        return adapter_set(pairs)

    def change(self, scales: Iterable[tuple[int, float]], param: str) -> None:
        """Set the scales of requests that do not say any. Raises ParameterError as `chosen`."""
        given = dict(self.chosen(scales, param))
        self._served = {
            number: replace(one, scale=given.get(number, 0.0))
            for number, one in self._served.items()
        }


def _names(stems: Sequence[str]) -> tuple[str, ...]:
    return tuple(stem if stem not in stems[:n] else f"{stem}-{n}" for n, stem in enumerate(stems))
