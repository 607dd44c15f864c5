"""Rows of a model's embedding table, read from the file as they are asked for.

Knows where `token_embd.weight` lies and how a row is decoded.
Refuses to know ranks. Holds no table in memory: a vocabulary of 152k rows is 300 MB and more.
"""

from __future__ import annotations

import numpy as np

from dure.engine.executor import Floats, Ints
from dure.errors import ModelError
from dure.model.ggml import dequantize
from dure.model.gguf import GgufFile

__all__ = ["EmbeddingTable"]


class EmbeddingTable:
    """Token ids to the vectors that enter the first layer."""

    def __init__(self, model: GgufFile, scale: float = 1.0) -> None:
        tensor = model.tensors.get("token_embd.weight")
        if tensor is None:
            raise ModelError(f"{model.paths[0].name} has no token_embd.weight: get the file again")
        self._model, self._tensor, self._scale = model, tensor, np.float32(scale)
        self.n_embd, self.n_vocab = tensor.shape[0], tensor.n_rows

    def rows(self, tokens: Ints) -> Floats:
        """tokens: int32 [n]. Returns float32 [n, n_embd]."""
        size = self._tensor.row_bytes
        data = b"".join(
            bytes(self._model.read(self._tensor, int(token) * size, size)) for token in tokens
        )
        floats = dequantize(data, self._tensor.type, len(tokens) * self.n_embd)
        return floats.reshape(len(tokens), self.n_embd) * self._scale
