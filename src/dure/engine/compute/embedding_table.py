"""Rows of a model's embedding table, read from the file on demand.

Knows where `token_embd.weight` lies and how a row is decoded.
Refuses to know ranks. Holds no table in memory: a vocabulary of 152k rows is 300 MB and more.
"""

from __future__ import annotations

import numpy as np

from dure.engine.arrays import Floats, Ints
from dure.engine.compute.native import address_of
from dure.errors import ModelError
from dure.model.ggml import decoder_of
from dure.model.gguf import GgufFile, OpenTensor

__all__ = ["EmbeddingTable"]


class EmbeddingTable:
    """Turns token ids into the vectors that enter the first layer.

    Opens the file for itself: the model may be closed. Raises ModelError if there is no table.
    """

    def __init__(self, model: GgufFile, scale: float = 1.0) -> None:
        tensor = model.tensors.get("token_embd.weight")
        if tensor is None:
            raise ModelError(
                f"{model.paths[0].name} has no token_embd.weight", "get the file again"
            )
        self._file, self._row_bytes, self._scale = (
            OpenTensor(tensor),
            tensor.row_bytes,
            np.float32(scale),
        )
        self.n_embd, self.n_vocab = tensor.shape[0], tensor.n_rows
        encoded = np.empty(tensor.row_bytes, np.uint8)  # of one row, and where it is
        self._encoded, self._encoded_at = encoded.data, address_of(encoded)
        self._decode = decoder_of(tensor.type)

    def rows(self, tokens: Ints) -> Floats:
        """Read the rows of tokens, int32 [n]. Returns float32 [n, n_embd]."""
        rows = np.empty((len(tokens), self.n_embd), np.float32)
        to, size = address_of(rows), self._row_bytes
        for token in tokens.tolist():
            self._file.read_into(token * size, self._encoded)
            self._decode(self._encoded_at, to, self.n_embd)
            to += rows.strides[0]
        if self._scale != 1:
            rows *= self._scale
        return rows

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._file.close()
