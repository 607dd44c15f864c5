"""An adapter folded into its model, which then needs no adapter.

Knows that a changed tensor keeps its type: a quantized one is decoded, changed and quantized again, which
costs a little accuracy. All others are copied as they are.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from dure.convert.adapters.folder import Adapter
from dure.convert.adapters.lora import Change, Factors, Floats
from dure.convert.decoding import encoded_rows, whole_rows
from dure.convert.model import Bytes, ConvertedModel, TensorSource
from dure.errors import ModelError
from dure.model.ggml import WRITABLE_TYPES, dequantize
from dure.model.gguf import TensorSpec
from dure.model.gguf.values import one_line


def merged_model(adapter: Adapter, base: ConvertedModel) -> ConvertedModel:
    """Return the base with the adapter's changes. Raises ModelError for types that cannot be written."""
    changes = {change.target.name: change for change in adapter.changes}
    for change in adapter.changes:
        if change.target.type.name not in WRITABLE_TYPES:
            raise ModelError(
                f"{one_line(change.target.name)} is {change.target.type.name}, which cannot be written "
                "anew without an importance matrix",
                "merge into the model's original or a Q4_K or larger one, or leave out --merge",
            )
    tensors = [
        replace(tensor, chunks=partial(_changed, tensor, changes[tensor.spec.name]))
        if tensor.spec.name in changes
        else tensor
        for tensor in base.tensors
    ]
    name = f"{base.value('general.name') or 'a model'} with {adapter.name}"
    return ConvertedModel({**base.metadata, "general.name": name}, tensors, _notes(adapter))


def _notes(adapter: Adapter) -> Sequence[str]:
    types = requantized(adapter)
    if not types:
        return ()
    listed = ", ".join(f"{count} in {name}" for name, count in types.items())
    return (
        f"{sum(types.values())} tensors are decoded, changed and quantized again ({listed}), which costs a "
        "little accuracy: merging into the unquantized model and quantizing once costs less",
    )


def requantized(adapter: Adapter) -> Mapping[str, int]:
    """Return how many tensors of each quantized type a merge quantizes again."""
    types = (change.target.type for change in adapter.changes)
    return Counter(type_.name for type_ in types if type_.quantized)


def _changed(tensor: TensorSource, change: Change) -> Iterator[Bytes]:
    """Yield a tensor's bytes with a change; as many pieces at once as there are processors."""
    factors, start = change.read(), 0
    n_threads = len(os.sched_getaffinity(0))
    pending: deque[Future[Bytes]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for rows in whole_rows(tensor):
            pending.append(pool.submit(_piece, tensor.spec, rows, start, factors, change.scale))
            start += len(rows)
            if len(pending) > n_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _piece(spec: TensorSpec, rows: Bytes, start: int, factors: Factors, scale: float) -> Bytes:
    floats = dequantize(rows, spec.type, spec.shape[0] * len(rows)).reshape(len(rows), -1)
    floats += _delta(spec, factors, start, len(rows)) * np.float32(scale)
    try:
        return encoded_rows(floats, spec.type).ravel()
    except ModelError as error:
        raise ModelError(f"{one_line(spec.name)} with the adapter: {error}") from None


def _delta(spec: TensorSpec, factors: Factors, start: int, n_rows: int) -> Floats:
    """Return b · a of some rows; the rows of a stack of experts are counted through."""
    a, b = factors
    if len(spec.shape) == 2:
        return b[start : start + n_rows] @ a
    height, parts = spec.shape[1], []
    while n_rows:
        expert, row = divmod(start, height)
        step = min(n_rows, height - row)
        parts.append(b[expert, row : row + step] @ a[expert])
        start, n_rows = start + step, n_rows - step
    return np.concatenate(parts)
