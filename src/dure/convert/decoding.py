"""Tensors on their way from one type to another, a few megabytes at a time.

Knows rows and types. Refuses to know what they are of, and to choose types.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from dure.convert.model import Bytes, ConvertedModel, TensorSource
from dure.errors import ModelError
from dure.model.ggml import GgmlType, dequantize, quantize
from dure.model.gguf import ValueKind, value_of
from dure.model.gguf.values import one_line

__all__ = ["decoded_model", "encoded_rows", "whole_rows"]

_CHUNK_BYTES = 4 << 20  # as float32
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}


def decoded_model(model: ConvertedModel, type_: GgmlType) -> ConvertedModel:
    """Return a model whose quantized tensors are floats of a type; what is in floats stays as it is.

    Raises ModelError when the chunks are read, if the type cannot hold a weight.
    """
    number = value_of(ValueKind.UINT32, _FILE_TYPES[type_.name])
    return ConvertedModel(
        {**model.metadata, "general.file_type": number},
        [_decoded(tensor, type_) for tensor in model.tensors],
        model.notes,
    )


def _decoded(tensor: TensorSource, type_: GgmlType) -> TensorSource:
    if not tensor.spec.type.quantized:
        return tensor
    spec = replace(tensor.spec, type=type_)
    return TensorSource(spec, partial(_chunks, tensor, type_))


def _chunks(tensor: TensorSource, type_: GgmlType) -> Iterator[Bytes]:
    columns = tensor.spec.shape[0]
    for rows in whole_rows(tensor):
        floats = dequantize(rows, tensor.spec.type, columns * len(rows)).reshape(-1, columns)
        try:
            yield encoded_rows(floats, type_).ravel()
        except ModelError as error:
            raise ModelError(f"{one_line(tensor.spec.name)}: {error}") from None


def encoded_rows(floats: npt.NDArray[np.float32], type_: GgmlType) -> Bytes:
    """Encode float32 [rows, columns] as uint8 [rows, row_bytes]. Raises ModelError as `quantize`."""
    return floats.view(np.uint8) if type_.name == "F32" else quantize(floats, type_)


def whole_rows(tensor: TensorSource) -> Iterator[Bytes]:
    """Yield a tensor's bytes, uint8 [rows, row_bytes], a few megabytes at a time."""
    row_bytes = tensor.spec.row_bytes
    most = max(1, _CHUNK_BYTES // (4 * tensor.spec.shape[0]))
    rest = np.empty(0, np.uint8)
    for chunk in tensor.chunks():
        flat = chunk.reshape(-1)
        joined = np.concatenate([rest, flat]) if len(rest) else flat
        n_rows = len(joined) // row_bytes
        rows = joined[: n_rows * row_bytes].reshape(n_rows, row_bytes)
        for start in range(0, n_rows, most):
            yield rows[start : start + most]
        rest = joined[n_rows * row_bytes :]
