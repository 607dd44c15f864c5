"""What a shared measurement says of its model: sizes and types, and none of the names that its file has.

A header is made of it again, of which a plan predicts what it would of the file. Refuses to know who
measured what.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from dure.model.architectures import Shape, shape_of
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf import GgufFile, bytes_by_type
from dure.model.gguf.values import INTEGERS, Value, ValueKind, array_of, default_value
from dure.plan.outline import Outline, header_of, outlines

__all__ = ["MatrixRecord", "ModelRecord", "model_record"]

_LAYER = re.compile(r"^blk\.\d+\.")
_NUMBERS = {*INTEGERS, ValueKind.BOOL}
_MOST_NUMBERS = 1024  # of a list, which has one for each layer

Size = int | bool | tuple[int, ...]


class MatrixRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Matrices that are alike in all layers, as in blk.*.attn_q.weight, or a single one.

    shape: in ggml's order. types: how many of them are in each.
    """

    name: str
    shape: tuple[int, ...]
    types: dict[str, int]


class ModelRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A model. name: of the catalogue's model that has these sizes, or ""; sizes: of its metadata."""

    name: str = ""
    architecture: str
    sizes: dict[str, Size]
    matrices: tuple[MatrixRecord, ...]

    @property
    def title(self) -> str:
        """Return what it is, as in "qwen3:8b" or "llama, 6 layers of 256"."""
        if self.name:
            return self.name
        layers, width = (self.sizes.get(key) for key in ("block_count", "embedding_length"))
        return f"{self.architecture}, {layers} layers of {width}"

    @property
    def types(self) -> str:
        """Return the type of most weights, and the mean bits of one."""
        tensors = self.header().tensors.values()
        sizes = bytes_by_type(tensors)
        most, n = max(sizes, key=sizes.__getitem__), sum(one.n_elements for one in tensors)
        return f"{most}, {8 * sum(sizes.values()) / n:.2f} bits"

    def header(self) -> GgufFile:
        """Return a header with these sizes and matrices. Raises ModelError for a type that is none."""
        metadata = {f"{self.architecture}.{key}": _value(size) for key, size in self.sizes.items()}
        metadata["general.architecture"] = default_value(self.architecture)
        shapes, types = dict[str, tuple[int, ...]](), dict[str, GgmlType]()
        for name, shape, type_ in self._tensors():
            shapes[name], types[name] = shape, type_
        return header_of(Path("record.gguf"), metadata, shapes, lambda name, _: types[name])

    def _tensors(self) -> Iterator[tuple[str, tuple[int, ...], GgmlType]]:
        """Yield each matrix with its shape and type; layers have those in the order of the types."""
        layers: Counter[str] = Counter()
        for matrix in self.matrices:
            for type_name, n in matrix.types.items():
                type_ = type_named(type_name)
                for _ in range(n):
                    layer, layers[matrix.name] = layers[matrix.name], layers[matrix.name] + 1
                    yield matrix.name.replace("*", str(layer)), matrix.shape, type_


def model_record(model: GgufFile) -> ModelRecord:
    """Return what may be said of a model. Raises ModelError if its header says too little for a plan."""
    return ModelRecord(
        name=_name_of(shape_of(model)),
        architecture=model.architecture,
        sizes=_sizes(model),
        matrices=tuple(_matrices(model)),
    )


def _matrices(model: GgufFile) -> Iterator[MatrixRecord]:
    found: Mapping[tuple[str, tuple[int, ...]], Counter[str]] = defaultdict(Counter)
    for tensor in model.tensors.values():
        if len(tensor.shape) > 1:
            name = _LAYER.sub("blk.*.", tensor.name)
            found[name, tensor.shape][tensor.type.name] += 1
    for (name, shape), types in found.items():
        yield MatrixRecord(name, shape, dict(types))


def _sizes(model: GgufFile) -> dict[str, Size]:
    """Return the whole numbers among the metadata of its architecture."""
    found: dict[str, Size] = {}
    prefix = f"{model.architecture}."
    for key, value in model.metadata.items():
        if key.startswith(prefix) and value.item_kind in _NUMBERS and value.count <= _MOST_NUMBERS:
            is_list = value.kind is ValueKind.ARRAY
            found[key.removeprefix(prefix)] = tuple(value.value) if is_list else value.value
    return found


def _value(size: Size) -> Value:
    if isinstance(size, tuple):
        return array_of(ValueKind.INT32, size)
    return default_value(size)


def _name_of(shape: Shape) -> str:
    """Return the name of the catalogue's model that has a shape; "" if none has."""
    wanted = _decisive(shape)
    return next((name for name, one in outlines().items() if _outlined(one) == wanted), "")


def _decisive(shape: Shape) -> tuple[object, ...]:
    return (
        shape.architecture,
        shape.n_layer,
        shape.n_embd,
        shape.n_head,
        shape.n_head_kv,
        shape.key_length,
        shape.n_ff,
        shape.n_vocab,
        shape.n_expert,
        shape.n_expert_used,
    )


def _outlined(one: Outline) -> tuple[object, ...]:
    return (
        one.architecture,
        one.layers,
        one.embedding,
        one.heads,
        one.kv_heads,
        one.head_length,
        one.feed_forward,
        one.vocabulary,
        one.experts,
        one.experts_used,
    )
