"""What a GGUF file is made of: metadata values and tensor entries, in their stored form.

Knows nothing about files. Source of the format: llama.cpp `gguf.h`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from dure.errors import ModelError
from dure.model.ggml import GgmlType

DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MAX_ALIGNMENT = 65536
MAX_NAME_BYTES = 63  # GGML_MAX_NAME without its closing zero
MAX_DIMENSIONS = 4
_INT64_MAX = (1 << 63) - 1
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


class ValueKind(IntEnum):
    """What a metadata value is. Source: `gguf_type` of llama.cpp."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


FORMATS = {
    ValueKind.UINT8: "B",
    ValueKind.INT8: "b",
    ValueKind.UINT16: "H",
    ValueKind.INT16: "h",
    ValueKind.UINT32: "I",
    ValueKind.INT32: "i",
    ValueKind.FLOAT32: "f",
    ValueKind.BOOL: "?",
    ValueKind.UINT64: "Q",
    ValueKind.INT64: "q",
    ValueKind.FLOAT64: "d",
}
FLOATS = (ValueKind.FLOAT32, ValueKind.FLOAT64)
INTEGERS = tuple(set(FORMATS) - {*FLOATS, ValueKind.BOOL})


@dataclass(frozen=True, slots=True)
class Value:
    """A metadata value as it lies in the file; `raw` leaves out the number of its kind."""

    kind: ValueKind
    raw: bytes | memoryview

    @property
    def item_kind(self) -> ValueKind:
        """Return the kind of an array's elements; of anything else, its own."""
        if self.kind is not ValueKind.ARRAY:
            return self.kind
        return ValueKind(U32.unpack_from(self.raw)[0])

    @property
    def count(self) -> int:
        """Return the number of an array's elements; 1 for anything else."""
        return int(U64.unpack_from(self.raw, 4)[0]) if self.kind is ValueKind.ARRAY else 1

    @property
    def value(self) -> Any:
        """Decode it: an int, float, bool or str, or a list of them. Bad UTF-8 shows as U+FFFD."""
        if self.kind is not ValueKind.ARRAY:
            return self._items(0, 1)[0]
        return self._items(12, self.count)

    def _items(self, start: int, count: int) -> list[Any]:
        kind = self.item_kind
        if kind is not ValueKind.STRING:
            return list(struct.unpack_from(f"<{count}{FORMATS[kind]}", self.raw, start))
        texts = []
        for _ in range(count):
            end = start + 8 + U64.unpack_from(self.raw, start)[0]
            texts.append(str(self.raw[start + 8 : end], "utf-8", "replace"))
            start = end
        return texts


def value_of(kind: ValueKind, value: int | float | bool | str) -> Value:
    """Make a scalar or string to be written. Raises ValueError when `kind` cannot hold it."""
    return Value(kind, encoded(kind, value))


def array_of(item_kind: ValueKind, values: Sequence[Any]) -> Value:
    """Make an array to be written. Raises ValueError when `item_kind` cannot hold an element."""
    items = b"".join(encoded(item_kind, item) for item in values)
    return Value(ValueKind.ARRAY, U32.pack(item_kind) + U64.pack(len(values)) + items)


def encoded(kind: ValueKind, value: Any) -> bytes:
    """Encode a scalar or string as it is stored. Raises ValueError when `kind` cannot hold it."""
    if kind is ValueKind.STRING:
        text = value.encode("utf-8")
        return U64.pack(len(text)) + bytes(text)
    if kind not in FORMATS:
        raise ValueError(f"{value!r} cannot be an {kind.name}: use array_of")
    try:
        return struct.pack("<" + FORMATS[kind], value)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{value!r} cannot be a {kind.name}: {error}") from None


def default_value(value: object) -> Value:
    """Return the kind that llama.cpp expects most often for a Python value."""
    match value:
        case Value():
            return value
        case bool():
            return value_of(ValueKind.BOOL, value)
        case str():
            return value_of(ValueKind.STRING, value)
        case int():
            return value_of(ValueKind.UINT32 if value >= 0 else ValueKind.INT32, value)
        case float():
            return value_of(ValueKind.FLOAT32, value)
    raise ValueError(f"{value!r} has no obvious kind: use value_of or array_of")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written; `shape` is in ggml's order, the row length first."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType

    @property
    def n_elements(self) -> int:
        """Return the product of `shape`."""
        return math.prod(self.shape)

    @property
    def n_rows(self) -> int:
        """Return the product of `shape` without its first number."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one row of `shape[0]` elements."""
        return self.type.row_bytes(self.shape[0])

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all rows, without padding."""
        return self.n_rows * self.row_bytes

    def check(self) -> None:
        """Check that llama.cpp could hold such a tensor. Raises ModelError."""
        label = f"tensor {one_line(self.name)}"
        if "\0" in self.name:
            raise ModelError(f"{label} has a zero byte in its name")
        if not 1 <= len(self.name.encode()) <= MAX_NAME_BYTES:
            raise ModelError(f"{label} has a name that is not 1 to {MAX_NAME_BYTES} bytes long")
        if not 1 <= len(self.shape) <= MAX_DIMENSIONS or min(self.shape) < 1:
            raise ModelError(f"{label} has the shape {self.shape}: 1 to 4 sizes from 1 are legal")
        # no type has more than 8 bytes an element
        if self.n_elements > _INT64_MAX // 8:
            raise ModelError(f"{label} has the impossible shape {self.shape}")
        if self.shape[0] % self.type.block_size:
            raise ModelError(
                f"{label} has rows of {self.shape[0]} elements, which {self.type.name} "
                f"cannot store in blocks of {self.type.block_size}"
            )


@dataclass(frozen=True, slots=True)
class Tensor(TensorSpec):
    """A tensor in a file: `size_bytes` bytes from the absolute `offset` of `path`."""

    path: Path
    offset: int


def aligned(position: int, alignment: int) -> int:
    """Return the next multiple of `alignment`, or `position` itself."""
    return -(-position // alignment) * alignment


def is_alignment(number: int) -> bool:
    """Return whether data may be aligned to this number of bytes."""
    return 1 <= number <= MAX_ALIGNMENT and number & (number - 1) == 0


def one_line(name: str) -> str:
    """Make a name from a file fit for one line of a message."""
    short = name if len(name) <= 200 else name[:200] + "..."
    return short if short.isprintable() else ascii(short)[1:-1]


def bytes_by_type(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Add up the bytes of tensors by the name of their type, in the order in which types come."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.size_bytes
    return sizes
