"""Rows of numbers that are read when they are asked for, a few at a time, and combined without copies.

Knows the number formats of checkpoints: float32, float16, bfloat16, 8-bit floats with block scales, MXFP4.
Refuses to know names and architectures. Rows are bytes, uint8 [n, row_bytes], in one of ggml's types.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dure.convert.huggingface.safetensors_file import StoredTensor
from dure.convert.model import Bytes
from dure.errors import ModelError
from dure.model.ggml import GgmlType, quantize, type_named
from dure.model.gguf.values import one_line

__all__ = [
    "MATRIX_TYPES",
    "Float8Rows",
    "Mxfp4Rows",
    "Numbers",
    "PickedRows",
    "Rows",
    "ShiftedRows",
    "StackedRows",
    "TensorRows",
    "TransposedRows",
    "chunks",
]

Floats = npt.NDArray[np.float32]
MATRIX_TYPES = ("F32", "F16", "BF16")
_CHUNK_BYTES = 4 << 20
_MXFP4_BLOCK = 32


class Rows(Protocol):
    """A matrix. type: of its bytes. kept: the type in which a GGUF holds it if none is asked for."""

    n_rows: int
    n_columns: int
    type: GgmlType
    kept: GgmlType

    def read(self, start: int, stop: int) -> Bytes:
        """Return the rows from `start` to `stop`. Raises ModelError if they cannot be read."""


class TensorRows:
    """A stored tensor of floats; all dimensions but the last are rows. flat: each number is a row."""

    def __init__(self, tensor: StoredTensor, *, flat: bool = False) -> None:
        if tensor.type not in MATRIX_TYPES:
            raise ModelError(
                f"tensor {one_line(tensor.name)} is stored in {tensor.type}, without what decodes it",
                "get the model in BF16, F16 or F32",
            )
        self._tensor = tensor
        self.n_columns = tensor.shape[-1] if tensor.shape and not flat else 1
        self.n_rows = tensor.n_elements // max(self.n_columns, 1)
        self.type = self.kept = type_named(tensor.type)

    def read(self, start: int, stop: int) -> Bytes:
        """Return rows as they are stored."""
        data = self._tensor.read(start * self.n_columns, stop * self.n_columns)
        return data.reshape(stop - start, -1)


class Float8Rows:
    """Floats of 8 bits (e4m3) with a scale for each block of a matrix, as float32."""

    def __init__(self, tensor: StoredTensor, scales: StoredTensor, block: tuple[int, int]) -> None:
        *outer, height, self.n_columns = tensor.shape
        needed = (*outer, -(-height // block[0]), -(-self.n_columns // block[1]))
        if scales.shape != needed:
            raise ModelError(
                f"{one_line(scales.name)} has the shape {scales.shape}, not {needed} for blocks of "
                f"{block[0]} x {block[1]}",
                "get the model again",
            )
        self._tensor, self._height, self._block = tensor, height, block
        self._scales = Numbers(TensorRows(scales))
        self.n_rows = math.prod(tensor.shape[:-1])
        self.type, self.kept = type_named("F32"), type_named("BF16")

    def read(self, start: int, stop: int) -> Bytes:
        """Return rows, decoded and scaled."""
        codes = self._tensor.read(start * self.n_columns, stop * self.n_columns)
        rows = _E4M3[codes].reshape(stop - start, -1)
        matrix, row = np.divmod(np.arange(start, stop), self._height)
        block_rows = matrix * -(-self._height // self._block[0]) + row // self._block[0]
        first = int(block_rows[0])
        scales = self._scales.read(first, int(block_rows[-1]) + 1)[block_rows - first]
        return _as_bytes(rows * scales.repeat(self._block[1], axis=1)[:, : self.n_columns])


class Mxfp4Rows:
    """Blocks of 32 4-bit floats with a scale each, repacked into ggml's layout.

    blocks: uint8 [..., columns / 32, 16], two neighbours in a byte, the first in its low half;
    scales: uint8 [..., columns / 32]. ggml puts the scale first, and number i beside number i + 16.
    Source: llama.cpp `ggml-common.h`, `block_mxfp4`.
    """

    def __init__(self, blocks: StoredTensor, scales: StoredTensor) -> None:
        if blocks.type != "U8" or scales.type != "U8" or blocks.shape != (*scales.shape, 16):
            raise ModelError(
                f"{one_line(blocks.name)} {blocks.shape} and {one_line(scales.name)} {scales.shape} "
                "are no MXFP4",
                "get the model again",
            )
        self._blocks, self._scales, self._per_row = blocks, scales, scales.shape[-1]
        self.n_columns = self._per_row * _MXFP4_BLOCK
        self.n_rows = math.prod(scales.shape[:-1])
        self.type = self.kept = type_named("MXFP4")

    def read(self, start: int, stop: int) -> Bytes:
        """Return rows in ggml's layout."""
        first, last = start * self._per_row, stop * self._per_row
        pairs = self._blocks.read(first * 16, last * 16).reshape(-1, 16)
        numbers = np.stack((pairs & 15, pairs >> 4), axis=-1).reshape(-1, _MXFP4_BLOCK)
        packed = np.empty((len(pairs), 17), dtype=np.uint8)
        packed[:, 0] = self._scales.read(first, last)
        packed[:, 1:] = numbers[:, :16] | numbers[:, 16:] << 4
        return packed.reshape(stop - start, -1)


class PickedRows:
    """Some rows of others, in another order. order: the row that each row is; neighbours lie close."""

    def __init__(self, rows: Rows, order: npt.NDArray[np.int64]) -> None:
        self._rows, self._order = rows, order
        self.n_rows, self.n_columns = len(order), rows.n_columns
        self.type, self.kept = rows.type, rows.kept

    def read(self, start: int, stop: int) -> Bytes:
        """Return the picked rows; what lies between them is read, too."""
        order = self._order[start:stop]
        first = int(order.min())
        return self._rows.read(first, int(order.max()) + 1)[order - first]


class ShiftedRows:
    """Others plus a number, as float32."""

    def __init__(self, rows: Rows, shift: float) -> None:
        self._numbers, self._shift = Numbers(rows), np.float32(shift)
        self.n_rows, self.n_columns = rows.n_rows, rows.n_columns
        self.type, self.kept = type_named("F32"), rows.kept

    def read(self, start: int, stop: int) -> Bytes:
        """Return the sums."""
        return _as_bytes(self._numbers.read(start, stop) + self._shift)


class StackedRows:
    """Matrices of one shape and type, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        first = parts[0]
        self._parts, self._height = parts, first.n_rows
        self.n_rows, self.n_columns = first.n_rows * len(parts), first.n_columns
        self.type, self.kept = first.type, first.kept

    def read(self, start: int, stop: int) -> Bytes:
        """Return rows, of several matrices if need be."""
        pieces = []
        while start < stop:
            part, row = divmod(start, self._height)
            n = min(self._height - row, stop - start)
            pieces.append(self._parts[part].read(row, row + n))
            start += n
        return np.concatenate(pieces)


class TransposedRows:
    """Each matrix of a stack, transposed. Holds one matrix at a time."""

    def __init__(self, rows: Rows, height: int) -> None:
        self._rows, self._height = rows, height
        self._width = rows.n_columns
        self.n_rows, self.n_columns = rows.n_rows // height * self._width, height
        self.type, self.kept = rows.type, rows.kept
        self._held, self._matrix = -1, np.empty((0, 0), dtype=np.uint8)

    def read(self, start: int, stop: int) -> Bytes:
        """Return rows, of several matrices if need be."""
        pieces = []
        while start < stop:
            matrix, row = divmod(start, self._width)
            n = min(self._width - row, stop - start)
            pieces.append(self._transposed(matrix)[row : row + n])
            start += n
        return np.concatenate(pieces)

    def _transposed(self, matrix: int) -> Bytes:
        if matrix != self._held:
            data = self._rows.read(matrix * self._height, (matrix + 1) * self._height)
            words = data.reshape(self._height, self._width, -1).swapaxes(0, 1)
            self._matrix = np.ascontiguousarray(words).reshape(self._width, -1)
            self._held = matrix
        return self._matrix


class Numbers:
    """Rows as float32."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def read(self, start: int, stop: int) -> Floats:
        """Return the rows: float32 [stop - start, columns]."""
        return _floats(self._rows.read(start, stop), self._rows.type)


def chunks(rows: Rows, type_: GgmlType, label: str) -> Iterator[Bytes]:
    """Yield all rows in a type, a few megabytes at a time. label: the tensor's name, for errors."""
    wide = max(rows.type.row_bytes(rows.n_columns), 4 * rows.n_columns)
    step = max(1, _CHUNK_BYTES // wide)
    for start in range(0, rows.n_rows, step):
        data = rows.read(start, min(rows.n_rows, start + step))
        yield data if rows.type == type_ else _converted(data, rows.type, type_, label)


def _converted(data: Bytes, from_: GgmlType, to: GgmlType, label: str) -> Bytes:
    floats = _floats(data, from_)
    if to.name == "F32":
        return _as_bytes(floats)
    if to.name == "F16" and (np.abs(floats) > np.finfo(np.float16).max).any():
        raise ModelError(
            f"{label} has numbers beyond ±65504, which F16 cannot hold", "use --type bf16"
        )
    try:
        return quantize(floats, to)
    except ModelError as error:
        raise ModelError(f"{label}: {error}") from None


def _floats(data: Bytes, type_: GgmlType) -> Floats:
    match type_.name:
        case "F32":
            return data.view(np.float32)
        case "F16":
            return data.view(np.float16).astype(np.float32)
        case "BF16":
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise AssertionError(type_.name)


def _as_bytes(floats: Floats) -> Bytes:
    return np.ascontiguousarray(floats).view(np.uint8)


def _e4m3() -> Floats:
    """Return what each code of 8 bits means: sign, 4 bits of exponent, 3 of mantissa; no infinities."""
    codes = np.arange(128)
    exponent, mantissa = codes >> 3, codes & 7
    values = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    values[127] = np.nan
    return np.concatenate((values, -values)).astype(np.float32)


_E4M3 = _e4m3()
