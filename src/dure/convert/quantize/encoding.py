"""Turns a tensor into another type: its rows are decoded and encoded in threads, and come in order.

Knows rows, types and importances. Refuses to know which type is a good one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dure.errors import ModelError
from dure.model.ggml import GgmlType, dequantize, quantize
from dure.model.gguf import GgufFile, Tensor

__all__ = ["Bytes", "Encoder", "Floats", "Importances", "importance_of", "n_matrices", "read_rows"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CHUNK_ELEMENTS = 1 << 18  # encoded at once, and never more than a matrix
COPY_BYTES = 4 << 20
_LOOKED_UP = "token_embd.weight"  # an importance of its shape is rare, and llama.cpp does without


class Importances(Protocol):
    """An importance matrix: how much an error in each column of a tensor counts."""

    def of(self, name: str) -> Floats | None:
        """Return a tensor's importances, float32, as many as its matrices have columns; None: unknown."""


def n_matrices(tensor: Tensor) -> int:
    """Return how many matrices a tensor holds: of a stack, one an expert."""
    return math.prod(tensor.shape[2:])


def importance_of(importances: Importances | None, tensor: Tensor) -> Floats | None:
    """Return a tensor's importances, float32 [matrices, row]. Raises ModelError if they are another's.

    An importance matrix may have all matrices of a stack in one row.
    """
    found = importances.of(tensor.name) if importances else None
    n, width = n_matrices(tensor), tensor.shape[0]
    if found is None or found.size == n * width:
        return None if found is None else found.reshape(n, width)
    if tensor.name == _LOOKED_UP:
        return None
    raise ModelError(
        f"the importance matrix has {found.size} numbers for {tensor.name}, whose rows are {width} long",
        "make it from this model, or from the same one in another type",
    )


def read_rows(model: GgufFile, tensor: Tensor, start: int, n: int) -> Floats:
    """Read n rows of a tensor, from row `start` on: float32 [n, row]."""
    data = model.read(tensor, start * tensor.row_bytes, n * tensor.row_bytes)
    return dequantize(data, tensor.type, n * tensor.shape[0]).reshape(n, tensor.shape[0])


class Encoder:
    """Encodes a model's tensors in threads: the same bytes for any number of them.

    Raises ModelError for a type that a tensor cannot have.
    """

    def __init__(self, model: GgufFile, importances: Importances | None, threads: int) -> None:
        self._model, self._importances, self._threads = model, importances, threads

    def chunks(self, tensor: Tensor, type_: GgmlType) -> Iterator[Bytes]:
        """Yield the bytes of a tensor in this type, in order."""
        if type_ == tensor.type:
            yield from self._copied(tensor)
            return
        importance = importance_of(self._importances, tensor)
        works = (
            partial(self._rows, tensor, type_, importance, start, n) for start, n in _spans(tensor)
        )
        yield from _in_order(works, self._threads)

    def _copied(self, tensor: Tensor) -> Iterator[Bytes]:
        for start in range(0, tensor.size_bytes, COPY_BYTES):
            size = min(COPY_BYTES, tensor.size_bytes - start)
            yield np.frombuffer(self._model.read(tensor, start, size), np.uint8)

    def _rows(
        self, tensor: Tensor, type_: GgmlType, importance: Floats | None, start: int, n: int
    ) -> Bytes:
        matrix = start // tensor.shape[1] if len(tensor.shape) > 1 else 0
        weights = None if importance is None else importance[matrix]
        try:
            rows = read_rows(self._model, tensor, start, n)
            return quantize(rows, type_, weights).reshape(-1)
        except ModelError as error:
            raise ModelError(f"{tensor.name}: {error.problem}", error.cure) from error


def _in_order(works: Iterable[Callable[[], Bytes]], threads: int) -> Iterator[Bytes]:
    """Do works in threads, and yield what they return in their order; few are waiting at any time."""
    waiting: deque[Future[Bytes]] = deque()
    with ThreadPoolExecutor(threads, "encode") as pool:
        try:
            for work in works:
                waiting.append(pool.submit(work))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _spans(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Yield (first row, rows) of pieces that lie in one matrix each."""
    rows_of_matrix = tensor.shape[1] if len(tensor.shape) > 1 else 1
    most = max(1, CHUNK_ELEMENTS // tensor.shape[0])
    for matrix in range(n_matrices(tensor)):
        for row in range(0, rows_of_matrix, most):
            yield matrix * rows_of_matrix + row, min(most, rows_of_matrix - row)
