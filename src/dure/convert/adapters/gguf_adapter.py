"""An adapter as a GGUF that llama.cpp loads beside its model.

Source: llama.cpp `llama-adapter.cpp`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import numpy as np

from dure.convert.adapters.base import Base
from dure.convert.adapters.folder import Adapter
from dure.convert.adapters.lora import Change
from dure.convert.model import Bytes, ConvertedModel, TensorSource
from dure.model.ggml import type_named
from dure.model.gguf import TensorSpec, Value, ValueKind, value_of

_EMBEDDING = "token_embd.weight"


def adapter_model(adapter: Adapter, base: Base) -> ConvertedModel:
    """Return what the adapter's GGUF holds: both factors of every change, in float32.

    llama.cpp multiplies a product by alpha / rank, with one alpha for the whole file. Where an adapter has
    several scales, the commonest one becomes alpha, and the others are multiplied into b.
    """
    alphas = Counter(change.scale * change.rank for change in adapter.changes)
    alpha = float(np.float32(alphas.most_common(1)[0][0]))
    metadata: dict[str, Value | int | float | str] = {
        "general.architecture": base.architecture,
        "general.type": "adapter",
        "general.name": adapter.name,
        "general.file_type": value_of(ValueKind.UINT32, 0),
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    if adapter.base_name:
        metadata |= {
            "general.base_model.count": 1,
            "general.base_model.0.name": adapter.base_name,
        }
    tensors = [
        tensor for change in adapter.changes for tensor in _tensors(change, np.float32(alpha))
    ]
    return ConvertedModel(metadata, tensors)


def _tensors(change: Change, alpha: np.float32) -> Iterator[TensorSource]:
    columns, rows, *experts = change.target.shape
    name, rank = change.target.name, change.rank
    factor = np.float32(change.scale * rank) / alpha
    # llama.cpp looks up a token's row of a, and then multiplies by b
    a_shape = (rank, rows) if name == _EMBEDDING else (columns, rank)
    b_shape = (rank, columns) if name == _EMBEDDING else (rank, rows)
    for side, shape in (("a", a_shape), ("b", b_shape)):
        spec = TensorSpec(f"{name}.lora_{side}", (*shape, *experts), type_named("F32"))
        spec.check()
        yield TensorSource(spec, partial(_numbers, change, side, factor))


def _numbers(change: Change, side: str, factor: np.float32) -> Iterator[Bytes]:
    a, b = change.read()
    if change.target.name == _EMBEDDING:
        a, b = b, a.T
    data = a if side == "a" else b * factor
    yield np.ascontiguousarray(data, np.float32).view(np.uint8).ravel()
