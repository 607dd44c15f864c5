"""What a model asks of machines: weights, KV cache and all-reduces, from its header alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.model.ggml import WRITABLE_TYPES, type_named
from dure.model.gguf import GgufWriter, TensorSpec, open_gguf
from dure.plan.load import load_of, main_type, read_types
from dure.plan.memory import DEFAULT_CTX, whole_memory
from dure.plan.outline import outline_named, outlined_model
from tests.support.random_models import SHAPES, write_random_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3"], "Q8_0")
    return path


def test_a_load_adds_up_what_the_header_says(path: Path) -> None:
    """Two all-reduces a layer, each of a vector of n_embd values; a KV cache for each sequence."""
    shape = SHAPES["qwen3"]
    with open_gguf(path) as model:
        load = load_of(model, n_ctx=512, n_sequences=3, value_bytes=34 / 32)
        total = sum(tensor.size_bytes for tensor in model.tensors.values())
    assert load.weights_bytes == total
    assert load.kv_bytes == shape.n_layer * shape.n_head_kv * 2 * shape.head_dim * 2 * 512 * 3
    assert load.n_allreduces == 2 * shape.n_layer
    assert load.allreduce_bytes == shape.n_embd * 34 / 32
    assert load.main_type == "Q8_0"


def test_without_a_context_it_is_the_default_or_what_was_trained(path: Path) -> None:
    with open_gguf(path) as model:
        default = load_of(model, n_ctx=None, n_sequences=1, value_bytes=4.0)
        memory, trained = whole_memory(model)
    assert trained == SHAPES["qwen3"].n_ctx_train < DEFAULT_CTX
    assert default.kv_bytes == memory.kv_bytes_per_token * trained
    assert default.weights_bytes == memory.weights_bytes


def test_the_main_type_is_that_of_most_bytes_or_one_like_it_that_can_be_written() -> None:
    assert main_type({"F32": 10, "Q4_0": 1000, "Q6_K": 300}) == "Q4_0"
    assert main_type({"F32": 10, "IQ2_XXS": 1000}) == "Q4_K"
    assert "Q4_K" in WRITABLE_TYPES


def test_a_model_whose_header_lacks_a_size_is_counted_without_a_kv_cache(tmp_path: Path) -> None:
    """llama.cpp may run it all the same, as one that keeps a running state."""
    path, float32 = tmp_path / "model.gguf", type_named("F32")
    metadata: dict[str, int | str] = {"general.architecture": "mamba", "mamba.context_length": 2048}
    with GgufWriter(path, metadata, [TensorSpec("token_embd.weight", (32, 8), float32)]) as writer:
        writer.write(bytes(4 * 32 * 8))
    with open_gguf(path) as model:
        memory, trained = whole_memory(model)
    assert (memory.weights_bytes, memory.kv_bytes_per_token, trained) == (1024, 0, 2048)


def test_types_that_decide_a_speed_are_those_of_many_bytes() -> None:
    """The main one first; norms in F32 are too few bytes to count."""
    outline = outline_named("qwen3:8b")
    assert outline is not None
    model = outlined_model("qwen3:8b", outline, "Q4_K_M")
    assert {tensor.type.name for tensor in model.tensors.values()} == {"F32", "Q4_K", "Q6_K"}
    assert read_types(model) == ["Q4_K", "Q6_K"]
