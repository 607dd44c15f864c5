"""Writes adapters in peft's layout without peft, and says what they change by peft's own formulas.

Source: peft 0.21 `save_and_load.py`, `tuners/lora/layer.py` (`Linear`, `Embedding`, `ParamWrapper`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.huggingface_folders import write_safetensors

Floats = npt.NDArray[np.float32]
PREFIX = "base_model.model."
_TYPES = {"float32": "F32", "float16": "F16"}


def write_adapter_folder(
    folder: Path, tensors: Mapping[str, npt.NDArray[Any]], **settings: Any
) -> Path:
    """Write adapter_config.json and adapter_model.safetensors. tensors: without peft's prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "base_model_name_or_path": "somebody/tiny",
        "init_lora_weights": True,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "use_rslora": False,
        **settings,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    stored = {
        PREFIX + name: (_TYPES[array.dtype.name], array.shape, array.tobytes())
        for name, array in tensors.items()
    }
    write_safetensors(folder / "adapter_model.safetensors", stored)
    return folder


def factors(module: str, n_in: int, n_out: int, rank: int, seed: int = 0) -> dict[str, Floats]:
    """Return random factors of a linear module; for a parameter of experts, rank times experts."""
    random = np.random.default_rng([seed, n_in, n_out, rank, len(module)])
    a = random.standard_normal((rank, n_in), np.float32) * np.float32(n_in**-0.5)
    b = random.standard_normal((n_out, rank), np.float32) * np.float32(0.3)
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}


def expert_delta(found: Mapping[str, Floats], n_experts: int) -> Floats:
    """Return `ParamWrapper.get_delta_weight` without its scale: float32 [experts, out, in]."""
    a, b = found.values()
    by_expert = a.reshape(n_experts, -1, a.shape[-1])
    by_rank = b.reshape(len(b), -1, n_experts)
    delta: Floats = np.einsum("ore,eri->eoi", by_rank, by_expert).astype(np.float32)
    return delta


def llama_rows(weight: Floats, n_heads: int) -> Floats:
    """Return Llama's queries or keys in llama.cpp's order. Source: `convert_hf_to_gguf.py`, `permute`."""
    rows, columns = weight.shape
    return (
        weight.reshape(n_heads, 2, rows // n_heads // 2, columns)
        .swapaxes(1, 2)
        .reshape(rows, columns)
    )
