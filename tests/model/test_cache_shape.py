"""What a header says a model keeps of a sequence. Sizes of real models, from their published headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from dure.errors import ModelError
from dure.model.cache_shape import CacheShape, cache_shape_of
from dure.model.gguf import open_gguf


def shape(path: Path, architecture: str, **keys: Any) -> CacheShape:
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in keys.items():
        key = f"{architecture}.{name.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(path) as model:
        return cache_shape_of(model)


GEMMA_1B = {
    "block_count": 26,
    "embedding_length": 1152,
    "attention__head_count": 4,
    "attention__head_count_kv": 1,
    "attention__key_length": 256,
    "attention__value_length": 256,
    "attention__sliding_window": 512,
}
GPT_OSS = {
    "block_count": 24,
    "embedding_length": 2880,
    "attention__head_count": 64,
    "attention__head_count_kv": 8,
    "attention__key_length": 64,
    "attention__value_length": 64,
    "attention__sliding_window": 128,
}
GRANITE_TINY = {  # Granite 4.0 H 350M
    "block_count": 32,
    "embedding_length": 768,
    "attention__head_count": 12,
    "attention__head_count_kv": [4 if i in (10, 13, 17, 27) else 0 for i in range(32)],
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 1536,
    "ssm__state_size": 128,
    "ssm__time_step_rank": 48,
    "ssm__group_count": 1,
}
LFM2 = {
    "block_count": 16,
    "embedding_length": 1024,
    "attention__head_count": 16,
    "attention__head_count_kv": [8 if i in (2, 5, 8, 10, 12, 14) else 0 for i in range(16)],
    "shortconv__l_cache": 3,
}


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        ("gemma3", GEMMA_1B, CacheShape(4 * 512, 22 * 512, 512)),
        ("gemma3", {**GEMMA_1B, "attention__sliding_window": 0}, CacheShape(26 * 512)),
        (
            "gemma3",
            {**GEMMA_1B, "attention__sliding_window_pattern": [True] * 20 + [False] * 6},
            CacheShape(6 * 512, 20 * 512, 512),
        ),
        ("gpt-oss", GPT_OSS, CacheShape(12 * 1024, 12 * 1024, 128)),
        ("llama", GPT_OSS, CacheShape(24 * 1024)),
        (
            "granitehybrid",
            GRANITE_TINY,
            CacheShape(4 * 512, state_values=28 * (3 * (1536 + 256) + 1536 * 128)),
        ),
        ("lfm2", LFM2, CacheShape(6 * 1024, state_values=10 * 1024 * 2)),
    ],
)
def test_layers_are_counted_as_llama_cpp_does(
    architecture: str, keys: dict[str, Any], expected: CacheShape, tmp_path: Path
) -> None:
    """Numbers of a position in all layers, in those with a window, and of running states."""
    assert shape(tmp_path / "model.gguf", architecture, **keys) == expected


def test_a_list_that_ends_early_is_a_damaged_header(tmp_path: Path) -> None:
    """The error names the key and the layer."""
    keys = {**LFM2, "attention__head_count_kv": [8, 8]}
    with pytest.raises(ModelError, match="head_count_kv says nothing of layer 2"):
        shape(tmp_path / "model.gguf", "lfm2", **keys)
