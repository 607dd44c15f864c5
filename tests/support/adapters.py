"""Writes random adapters (LoRA) for random models, and models with an adapter merged into their weights.

Knows llama.cpp's form of both. Refuses to know how dure loads or cuts an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dure.model.ggml import dequantize, quantize, type_named
from dure.model.gguf import GgufFile, GgufWriter, Tensor, TensorSpec, open_gguf

Floats = npt.NDArray[np.float32]

ALPHA = 12.0
NO_TABLES = ("token_embd.weight", "output.weight")


def is_of_layer(name: str) -> bool:
    """Tell whether a weight is one of a layer's, not a table of the vocabulary."""
    return name.endswith(".weight") and name not in NO_TABLES


def write_adapter(
    model: Path,
    path: Path,
    *,
    seed: int = 0,
    rank: int = 8,
    type_name: str = "F32",
    strength: float = 1.0,
    wanted: Callable[[str], bool] = is_of_layer,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a random adapter for the matrices of a model that are wanted; return its path.

    strength: what it adds to a matrix is about a third of it, times this. metadata: in place of what an
    adapter has.
    """
    random = np.random.default_rng(seed)
    halves: list[tuple[TensorSpec, bytes]] = []
    with open_gguf(model) as source:
        for base in source.tensors.values():
            if len(base.shape) > 1 and wanted(base.name):
                for name, rows in zip("ab", _halves(base, rank, strength, random), strict=True):
                    halves.append(_encoded(f"{base.name}.lora_{name}", rows, type_name))
        facts: dict[str, str | float] = {
            "general.type": "adapter",
            "general.architecture": source.architecture,
            "adapter.type": "lora",
            "adapter.lora.alpha": ALPHA,
            **(metadata or {}),
        }
    with GgufWriter(path, facts, [spec for spec, _ in halves]) as writer:
        for _, data in halves:
            writer.write(data)
    return path


def _halves(
    base: Tensor, rank: int, strength: float, random: np.random.Generator
) -> tuple[Floats, Floats]:
    columns, rows, *experts = base.shape
    a: tuple[int, ...]
    b: tuple[int, ...]
    if base.name == "token_embd.weight":  # llama.cpp looks its rows up, so they are turned
        a, b = (rows, rank), (columns, rank)
    else:
        a, b = (*experts, rank, columns), (*experts, rows, rank)
    down = random.standard_normal(a, np.float32) / np.float32(np.sqrt(columns))
    up = random.standard_normal(b, np.float32)
    up *= np.float32(0.3 * strength * rank / ALPHA / np.sqrt(rank))
    return down, up


def _encoded(name: str, rows: Floats, type_name: str) -> tuple[TensorSpec, bytes]:
    type_ = type_named(type_name)
    data = quantize(rows.reshape(-1, rows.shape[-1]), type_).tobytes()
    return TensorSpec(name, rows.shape[::-1], type_), data


def write_merged(model: Path, adapters: list[tuple[Path, float]], path: Path) -> Path:
    """Write a float32 model with adapters added to its weights, each with a scale; return its path."""
    with open_gguf(model) as source:
        specs = [TensorSpec(t.name, t.shape, t.type) for t in source.tensors.values()]
        with GgufWriter(path, dict(source.metadata), specs) as writer:
            for tensor in source.tensors.values():
                rows = _floats(source, tensor)
                for adapter, scale in adapters:
                    with open_gguf(adapter) as file:
                        rows = rows + np.float32(scale) * _delta(file, tensor)
                writer.write(np.ascontiguousarray(rows, np.float32).tobytes())
    return path


def _delta(adapter: GgufFile, base: Tensor) -> Floats:
    if f"{base.name}.lora_a" not in adapter.tensors:
        return np.zeros(base.shape[::-1], np.float32)
    a, b = (_floats(adapter, adapter.tensors[f"{base.name}.lora_{half}"]) for half in "ab")
    scale = np.float32(adapter.float("adapter.lora.alpha") / b.shape[-1])
    if base.name == "token_embd.weight":
        return scale * (a @ b.T)
    return scale * (b @ a)


def _floats(file: GgufFile, tensor: Tensor) -> Floats:
    data = file.read(tensor, 0, tensor.size_bytes)
    return dequantize(data, tensor.type, tensor.n_elements).reshape(tensor.shape[::-1])
