"""A GGUF that was brought back to torch is what llama.cpp computes and reads, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dure.chat.template import ChatTemplate
from dure.errors import ModelError, UsageError
from dure.model.ggml import dequantize, type_named
from dure.model.gguf import GgufWriter, TensorSpec, open_gguf
from dure.model.vocabulary import Vocabulary
from dure.tune.base import config_of, load_base, tokenizer_of
from dure.tune.base.gguf import model_of
from tests.support.exact_logits import logits_of
from tests.support.huggingface_folders import CONFIG, write_llama
from tests.support.random_models import SHAPES, write_random_model
from tests.support.tuned_bases import BASES, PROMPT, imported, texts

MOST_ERROR = 1e-3
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  Wie heißt der Fluß? 狐 "},
]


@contextmanager
def vocabulary_of(path: Path) -> Iterator[Vocabulary]:
    with open_gguf(path) as gguf:
        vocabulary = Vocabulary(gguf)
        try:
            yield vocabulary
        finally:
            vocabulary.close()


def torch_logits(path: Path, prompt: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        found = model_of(path, torch.float32)(torch.tensor([prompt])).logits[0]
    return np.asarray(found.numpy())


def assert_alike(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < MOST_ERROR
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert expected.std() > 0.05  # not a model whose answers are all alike


@pytest.mark.parametrize("name", BASES)
def test_logits_are_llama_cpps(base: Callable[[str], Path], name: str) -> None:
    """At every position of a prompt, torch's logits are those of the file."""
    assert_alike(torch_logits(base(name), PROMPT), logits_of(base(name), PROMPT))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss"])
def test_files_of_others_are_read(tmp_path: Path, name: str) -> None:
    """Biases of some matrices only, linear scaling of the layers without a window, YaRN's defaults."""
    write_random_model(
        tmp_path / "model.gguf", replace(SHAPES[name], rope_factors=False, n_layer=2), "F32"
    )
    prompt = [token % 1000 for token in PROMPT]
    assert_alike(
        torch_logits(tmp_path / "model.gguf", prompt), logits_of(tmp_path / "model.gguf", prompt)
    )


@pytest.mark.parametrize("type_name", ["Q4_K", "IQ4_NL"])
def test_quantized_weights_are_decoded(tmp_path: Path, type_name: str) -> None:
    """They are what llama.cpp decodes them to; its logits differ, as it rounds what it multiplies with."""
    path, decoded = tmp_path / "model.gguf", tmp_path / "decoded.gguf"
    write_random_model(path, replace(SHAPES["qwen3"], n_layer=1), type_name)
    with open_gguf(path) as gguf:
        tensors = list(gguf.tensors.values())
        assert type_name in {one.type.name for one in tensors}
        specs = [TensorSpec(one.name, one.shape, type_named("F32")) for one in tensors]
        with GgufWriter(decoded, gguf.metadata, specs) as writer:
            for one in tensors:
                data = gguf.read(one, 0, one.size_bytes)
                writer.write(dequantize(data, one.type, one.n_elements).view(np.uint8))
    assert_alike(torch_logits(path, PROMPT), logits_of(decoded, PROMPT))


@pytest.mark.parametrize("name", ["llama", "llama2", "qwen2", "qwen3moe", "gemma3"])
def test_tokens_are_llama_cpps(base: Callable[[str], Path], name: str) -> None:
    """Strings of many languages, code, blanks and special tokens have the same tokens."""
    strings = texts(2000)
    with vocabulary_of(base(name)) as vocabulary:
        expected = [vocabulary.tokenize(text, special=True) for text in strings]
    assert tokenizer_of(base(name))(strings).input_ids == expected


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_conversations_are_rendered_alike(base: Callable[[str], Path], name: str) -> None:
    """A conversation that is trained on is written as the server writes it."""
    with vocabulary_of(base(name)) as vocabulary:
        template = ChatTemplate(
            vocabulary.chat_template(),
            model=name,
            bos=vocabulary.bos_text,
            eos=vocabulary.eos_text,
        )
        expected = template.render(CONVERSATION)
    found = tokenizer_of(base(name)).apply_chat_template(
        CONVERSATION, tokenize=False, add_generation_prompt=True
    )
    assert found == expected


def test_a_base_is_loaded_whole(base: Callable[[str], Path]) -> None:
    """A GGUF is loaded as a folder is: the model in the type that was asked for, and its tokenizer."""
    found = load_base(base("qwen3"), torch.bfloat16)
    assert {one.dtype for one in found.model.parameters()} == {torch.bfloat16}
    assert found.tokenizer.eos_token_id == found.model.config.eos_token_id == 1


@pytest.mark.parametrize(("factor", "trained", "n_rot"), [(8.0, 8192, 128), (32.0, 8192, 64)])
def test_stretched_waves_are_found(tmp_path: Path, factor: float, trained: int, n_rot: int) -> None:
    """Llama 3's parameters come back from the factors that a GGUF has in their place."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": trained,
    }
    config = {**CONFIG, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": n_rot}
    config |= {"num_hidden_layers": 1, "rope_parameters": rope}
    assert wave_parameters(tmp_path, config) == rope


def wave_parameters(folder: Path, config: dict[str, Any]) -> Any:
    from tests.support.huggingface_folders import N_EMBD, floats, llama_tensors

    n = config["head_dim"]
    tensors = {name: one for name, one in llama_tensors().items() if ".layers.1." not in name}
    for part in "qkv":
        tensors[f"model.layers.0.self_attn.{part}_proj.weight"] = floats(n, N_EMBD)
    tensors["model.layers.0.self_attn.o_proj.weight"] = floats(N_EMBD, n)
    path = imported(write_llama(folder / "model", tensors, config), folder / "model.gguf")
    return config_of(path).rope_parameters


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as error:
        model_of(path, torch.float32)
    assert all(word in str(error.value) for word in (*words, "Hugging Face folder"))


def test_what_torch_would_compute_otherwise_is_refused(tmp_path: Path) -> None:
    """Experts of Llama, and factors of positions that no formula gives."""
    write_random_model(tmp_path / "mixtral.gguf", SHAPES["llama-moe"], "F16")
    refused(tmp_path / "mixtral.gguf", "mixture of experts")
    write_random_model(tmp_path / "own.gguf", SHAPES["llama"], "F16")
    refused(tmp_path / "own.gguf", "rope_freqs.weight")


def test_a_file_without_tokenizer_is_refused(tmp_path: Path) -> None:
    """The error says what is missing; a path that is neither file nor folder is named."""
    write_random_model(tmp_path / "model.gguf", replace(SHAPES["qwen3"], n_layer=1), "F16")
    with pytest.raises(ModelError, match="no tokenizer"):
        load_base(tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="no model that can be tuned"):
        load_base(tmp_path / "nothing.gguf")
