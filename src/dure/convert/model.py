"""A model that is about to be written: its metadata, its tensors, and where each tensor's bytes come from.

Knows how such a model becomes a file, whole or not at all. Refuses to know formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dure.model.gguf import GgufWriter, TensorSpec, Value

__all__ = ["Bytes", "ConvertedModel", "Metadata", "TensorSource", "write_model"]

Bytes = npt.NDArray[np.uint8]
Metadata = Mapping[str, Value | bool | int | float | str]


@dataclass(frozen=True)
class TensorSource:
    """A tensor to be written. chunks: yields its bytes in order, a few megabytes at a time."""

    spec: TensorSpec
    chunks: Callable[[], Iterator[Bytes]]


@dataclass(frozen=True)
class ConvertedModel:
    """What a GGUF will hold. notes: sentences that a user should read about it."""

    metadata: Metadata
    tensors: Sequence[TensorSource]
    notes: Sequence[str] = ()

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all tensors, without padding."""
        return sum(tensor.spec.size_bytes for tensor in self.tensors)

    def value(self, key: str) -> object:
        """Return a value of the metadata as Python has it, None if there is none."""
        found = self.metadata.get(key)
        return found.value if isinstance(found, Value) else found


def write_model(
    model: ConvertedModel, path: Path, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Write a model to a path: the whole file, or nothing. progress: gets the bytes of each chunk.

    Raises ResourceError if the disk is full, and what the tensors raise.
    """
    specs = [tensor.spec for tensor in model.tensors]
    with GgufWriter(path, model.metadata, specs) as writer:
        for tensor in model.tensors:
            for chunk in tensor.chunks():
                writer.write(chunk)
                progress(chunk.nbytes)
