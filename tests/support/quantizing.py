"""Small models to quantize, importance matrices for them, and what llama.cpp's quantizer makes of them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from llama_cpp import llama_cpp as bindings

from dure.convert.importance import Importance, InputSquares
from dure.model.gguf import GgufFile
from tests.support.random_models import Shape, write_random_model

__all__ = ["MIXTURE", "SMALL", "importance_for", "llama_quantized", "small_model", "tensor_bytes"]

SMALL = Shape("llama", 2, 256, 4, 2, 64, 512, 300)
MIXTURE = Shape("qwen3moe", 2, 256, 4, 2, 64, 256, 300, n_expert=4, n_expert_used=2, qk_norm=True)
_N_VECTORS = 50


def small_model(path: Path, shape: Shape = SMALL) -> Path:
    """Write a small model in F16."""
    write_random_model(path, shape, "F16")
    return path


def importance_for(model: GgufFile, names: Sequence[str] | None = None) -> Importance:
    """Return importances of matrices in layers: some columns count a thousand times as much as others."""
    squares = {}
    for name, tensor in model.tensors.items():
        if len(tensor.shape) < 2 or (names is not None and name not in names):
            continue
        if names is None and not name.startswith("blk."):
            continue
        n = tensor.shape[2] if len(tensor.shape) > 2 else 1
        random = np.random.default_rng(len(name) + tensor.n_elements)
        sums = 10 ** random.uniform(-1.5, 1.5, (n, tensor.shape[0]))
        squares[name] = InputSquares(
            (sums * _N_VECTORS).astype(np.float32), np.full(n, _N_VECTORS, np.float32)
        )
    return Importance(squares, ["random"], 1, 512)


def llama_quantized(
    source: Path, target: Path, file_type: int, importance: Importance | None
) -> None:
    """Have llama.cpp write a model with its own quantizer, in this process, on valid input."""
    params = bindings.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = file_type, 2, True
    kept = []
    if importance:
        entries = (bindings.llama_model_imatrix_data * (len(importance.squares) + 1))()
        for entry, name in zip(entries, importance.squares, strict=False):
            found = importance.of(name)
            assert found is not None
            means = np.ascontiguousarray(found.ravel())
            kept.append(means)
            entry.name, entry.size = name.encode(), means.size
            entry.data = means.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    code = bindings.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    assert code == 0


def tensor_bytes(path: Path) -> dict[str, tuple[str, bytes]]:
    """Return every tensor's type and bytes, as another reader finds them."""
    return {
        tensor.name: (tensor.tensor_type.name, tensor.data.tobytes())
        for tensor in gguf.GGUFReader(path).tensors
    }
