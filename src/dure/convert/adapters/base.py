"""The model that an adapter belongs to: what of it decides what the adapter's tensors are.

Knows metadata and shapes, of a GGUF or of a model that is being imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dure.convert.model import Bytes, ConvertedModel, TensorSource
from dure.errors import ModelError
from dure.model.gguf import GgufFile, Tensor, TensorSpec, open_gguf
from dure.model.gguf.values import ALIGNMENT_KEY, one_line

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class Base:
    """A model's architecture, sizes and tensors. Sizes that it does not have are 0."""

    name: str
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    tensors: Mapping[str, TensorSpec]

    def tensor(self, name: str) -> TensorSpec:
        """Return a tensor. Raises ModelError if there is none of that name."""
        if name not in self.tensors:
            raise ModelError(
                f"the adapter changes {one_line(name)}, which {one_line(self.name)} does not have",
                "name the model that it was trained on with --base",
            )
        return self.tensors[name]


def base_of(model: ConvertedModel) -> Base:
    """Return what an adapter needs to know of its model. Raises ModelError if that is not there."""
    architecture = model.value("general.architecture")
    if not isinstance(architecture, str):
        raise ModelError("the base has no general.architecture", "name a whole model with --base")
    heads = _number(model, f"{architecture}.attention.head_count")
    return Base(
        name=str(model.value("general.name") or "the base"),
        architecture=architecture,
        layers=_number(model, f"{architecture}.block_count"),
        heads=heads,
        kv_heads=_number(model, f"{architecture}.attention.head_count_kv") or heads,
        tensors={tensor.spec.name: tensor.spec for tensor in model.tensors},
    )


def _number(model: ConvertedModel, key: str) -> int:
    value = model.value(key)
    return value if isinstance(value, int) else 0


@contextmanager
def gguf_model(path: Path) -> Iterator[ConvertedModel]:
    """Open a GGUF, all parts of a split one, as a model to be written. Raises ModelError."""
    with open_gguf(path) as file:
        metadata = {
            key: value
            for key, value in file.metadata.items()
            if key != ALIGNMENT_KEY and not key.startswith("split.")
        }
        tensors = [
            TensorSource(
                TensorSpec(tensor.name, tensor.shape, tensor.type), partial(_pieces, file, tensor)
            )
            for tensor in file.tensors.values()
        ]
        yield ConvertedModel(metadata, tensors)


def _pieces(file: GgufFile, tensor: Tensor) -> Iterator[Bytes]:
    for start in range(0, tensor.size_bytes, _CHUNK_BYTES):
        size = min(_CHUNK_BYTES, tensor.size_bytes - start)
        yield np.frombuffer(file.read(tensor, start, size), np.uint8)
