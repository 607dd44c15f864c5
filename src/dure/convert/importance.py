"""Importance matrices: how large each tensor's inputs are, column by column, in llama.cpp's GGUF format.

A quantizer weighs an error in a column by the mean of the squares that this column is multiplied with.
Knows the format, and what a file must hold to be believed. Refuses to know how the squares are gathered,
and what types are chosen by them. Source of the format: llama.cpp `tools/imatrix`, `common/imatrix-loader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dure.errors import ModelError
from dure.model.ggml import type_named
from dure.model.gguf import (
    GgufFile,
    GgufWriter,
    Tensor,
    TensorSpec,
    Value,
    ValueKind,
    array_of,
    open_gguf,
    value_of,
)

__all__ = ["Importance", "InputSquares", "read_importance", "write_importance"]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_DATA_BYTES = 4 << 30  # of the largest mixtures, with 256 experts in 58 layers, 1 GiB
_AGAIN = "it is damaged, gather it again with `dure imatrix`"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class InputSquares:
    """What one tensor was multiplied with.

    sums: float32 [matrices, width], the sum of the squares in each column; of a stack of experts, one row
    for each. counts: float32 [matrices], how many vectors each sum is of.
    """

    sums: Floats
    counts: Floats

    def mean(self) -> Floats:
        """Return the mean squares, float32 [matrices, width]; 1 for an expert that no token came to.

        llama.cpp's quantizer fills in the same number.
        """
        counts = self.counts[:, np.newaxis]
        return np.divide(self.sums, counts, out=np.ones_like(self.sums), where=counts > 0)


@dataclass(frozen=True)
class Importance:
    """An importance matrix. squares: by the tensor's name. datasets: what the text came from.

    n_chunks: pieces of chunk_size tokens that were computed.
    """

    squares: Mapping[str, InputSquares]
    datasets: Sequence[str]
    n_chunks: int
    chunk_size: int

    def of(self, tensor: str) -> Floats | None:
        """Return the mean squares of a tensor's inputs, float32 [matrices, width]; None if it has none.

        A stack of experts has a row for each. Any other stack, as in latent attention, has all its
        matrices in one row, as llama.cpp writes them: `.reshape(-1, row length)` parts them.
        """
        squares = self.squares.get(tensor)
        return squares.mean() if squares else None


def read_importance(path: Path) -> Importance:
    """Read an importance matrix that dure or llama.cpp wrote.

    Raises ModelError, with one line, for everything that can be wrong with a file.
    """
    with open_gguf(path) as file:
        return importance_in(file)


def importance_in(file: GgufFile) -> Importance:
    """Read the importance matrix that an open file holds. Raises ModelError."""
    name = file.paths[0].name
    if (kind := file.str("general.type", "model")) != "imatrix":
        raise ModelError(
            f"{name} is a {kind}, no importance matrix", "make one with `dure imatrix`"
        )
    if sum(tensor.size_bytes for tensor in file.tensors.values()) > _MAX_DATA_BYTES:
        raise ModelError(f"{name} holds more than {_MAX_DATA_BYTES >> 30} GiB", _AGAIN)
    return Importance(
        {tensor: _squares(file, name, tensor) for tensor in _names(file, name)},
        _datasets(file, name),
        file.int("imatrix.chunk_count"),
        file.int("imatrix.chunk_size"),
    )


def write_importance(
    path: Path, importance: Importance, extra: Mapping[str, Value | str | int] | None = None
) -> None:
    """Write an importance matrix that llama.cpp reads too: the whole file, or nothing.

    extra: more metadata. Raises ResourceError if the disk is full.
    """
    f32 = type_named("F32")
    metadata: dict[str, Value | bool | int | float | str] = {
        "general.type": "imatrix",
        "imatrix.datasets": array_of(ValueKind.STRING, importance.datasets),
        "imatrix.chunk_count": value_of(ValueKind.UINT32, importance.n_chunks),
        "imatrix.chunk_size": value_of(ValueKind.UINT32, importance.chunk_size),
        **(extra or {}),
    }
    arrays: list[tuple[TensorSpec, Floats]] = []
    for name, squares in sorted(importance.squares.items()):
        matrices, width = squares.sums.shape
        arrays.append((TensorSpec(name + _SUMS, (width, matrices), f32), squares.sums))
        arrays.append((TensorSpec(name + _COUNTS, (1, matrices), f32), squares.counts))
    with GgufWriter(path, metadata, [spec for spec, _ in arrays]) as writer:
        for _, array in arrays:
            writer.write(np.ascontiguousarray(array, dtype="<f4").view(np.uint8).reshape(-1))


def _names(file: GgufFile, name: str) -> list[str]:
    """Return the tensors that the file has squares of: a sum and a count of each, and nothing else."""
    sums = {t.removesuffix(_SUMS) for t in file.tensors if t.endswith(_SUMS)}
    counts = {t.removesuffix(_COUNTS) for t in file.tensors if t.endswith(_COUNTS)}
    others = len(file.tensors) - len(sums) - len(counts)
    if others or sums != counts:
        odd = sorted(sums ^ counts)
        what = (
            f"the sum or the count of {odd[0]} is missing"
            if odd
            else f"it has {others} other tensors"
        )
        raise ModelError(f"{name}: {what}", _AGAIN)
    return sorted(sums)


def _squares(file: GgufFile, name: str, tensor: str) -> InputSquares:
    sums, counts = (_floats(file, name, file.tensors[tensor + end]) for end in (_SUMS, _COUNTS))
    if sums.size % counts.size:
        raise ModelError(
            f"{name}: {tensor} has {sums.size} sums for {counts.size} matrices", _AGAIN
        )
    return InputSquares(sums.reshape(counts.size, -1), counts)


def _floats(file: GgufFile, name: str, tensor: Tensor) -> Floats:
    if tensor.type.name != "F32":
        raise ModelError(f"{name}: {tensor.name} is {tensor.type.name}, not F32", _AGAIN)
    values = np.frombuffer(file.read(tensor, 0, tensor.size_bytes), dtype="<f4")
    if not np.isfinite(values).all() or values.min() < 0:
        raise ModelError(f"{name}: {tensor.name} has numbers that no sum of squares has", _AGAIN)
    return values.astype(np.float32, copy=False)


def _datasets(file: GgufFile, name: str) -> list[str]:
    value = file.metadata.get("imatrix.datasets")
    if value is None:
        return []
    if value.kind is not ValueKind.ARRAY or value.item_kind is not ValueKind.STRING:
        raise ModelError(f"{name}: imatrix.datasets is no list of strings", _AGAIN)
    return [str(item) for item in value.value]
