"""The random models are sound: llama.cpp loads them, and every part of them shows in the logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import llama_cpp as binding

from tests.support.random_models import (
    SHAPES,
    Shape,
    reference_logits,
    write_random_model,
    write_split,
)

TYPES = ("F32", "F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K")
N_PREFILL = 24  # three sliding windows
TOKENS = np.random.default_rng(7).integers(0, 1000, N_PREFILL + 4).tolist()

Floats = npt.NDArray[np.float32]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where a test writes its model; removed at once, for pytest keeps its folders."""
    yield tmp_path / "model.gguf"
    for file in tmp_path.glob("*.gguf"):
        file.unlink()


def difference(a: Floats, b: Floats) -> float:
    """Root mean square of a - b, as a part of the spread of b."""
    return float(np.sqrt(np.mean((a - b) ** 2)) / b.std())


def logits(path: Path, shape: Shape, type_name: str = "F32") -> Floats:
    write_random_model(path, shape, type_name)
    return reference_logits(path, TOKENS, N_PREFILL)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_every_model_in_every_type_gives_logits_like_a_trained_model(
    path: Path, name: str, type_name: str
) -> None:
    rows = logits(path, SHAPES[name], type_name)
    assert rows.shape == (5, SHAPES[name].n_vocab)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert all(1.0 < row.std() < 4.0 for row in rows)
    assert difference(rows[1:], rows[:-1]) > 0.5  # each position has its own


@pytest.mark.parametrize("name", SHAPES)
def test_tensors_have_the_type_asked_for_except_those_llama_cpp_leaves_alone(
    path: Path, name: str
) -> None:
    write_random_model(path, SHAPES[name], "Q4_K")
    for tensor in gguf.GGUFReader(path).tensors:
        small = tensor.name.endswith("bias") or len(tensor.shape) == 1
        left_alone = small or "ffn_gate_inp" in tensor.name
        assert tensor.tensor_type.name == ("F32" if left_alone else "Q4_K"), tensor.name


@pytest.mark.parametrize("name", SHAPES)
def test_decoding_token_by_token_ends_where_one_long_prefill_does(path: Path, name: str) -> None:
    rows = logits(path, SHAPES[name])
    assert difference(rows[-1:], reference_logits(path, TOKENS, len(TOKENS))) < 0.005


@pytest.mark.parametrize("name", SHAPES)
def test_attention_looks_back_to_the_start_of_the_prompt(path: Path, name: str) -> None:
    rows = logits(path, SHAPES[name])
    other = [(TOKENS[0] + 1) % 1000, *TOKENS[1:]]
    assert difference(reference_logits(path, other, N_PREFILL), rows) > 0.05


@pytest.mark.parametrize("name", [name for name in SHAPES if SHAPES[name].n_swa])
def test_the_sliding_window_shows_in_the_logits(path: Path, name: str) -> None:
    shape = SHAPES[name]
    without = logits(path, dataclasses.replace(shape, n_swa=shape.n_ctx_train))
    assert difference(logits(path, shape), without) > 0.1


@pytest.mark.parametrize("name", SHAPES)
def test_every_norm_bias_sink_and_rope_factor_shows_in_the_logits(path: Path, name: str) -> None:
    rows = logits(path, SHAPES[name])
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path, "r+").tensors}
    small = [t for t in tensors.values() if t.name.endswith("bias") or len(t.shape) == 1]
    assert len(small) > 2 * SHAPES[name].n_layer
    for tensor in small:
        original = tensor.data.copy()
        tensor.data[:] = 0.0 if "bias" in tensor.name or "sinks" in tensor.name else 1.0
        changed = difference(reference_logits(path, TOKENS, N_PREFILL), rows)
        tensor.data[:] = original
        assert changed > 0.01, tensor.name


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(path: Path) -> None:
    write_random_model(path, SHAPES["qwen3"], "Q8_0", seed=3)
    first = path.read_bytes()
    write_random_model(path, SHAPES["qwen3"], "Q8_0", seed=3)
    assert path.read_bytes() == first
    write_random_model(path, SHAPES["qwen3"], "Q8_0", seed=4)
    assert path.read_bytes() != first


@pytest.mark.parametrize("name", ["llama", "gpt-oss"])
def test_a_split_model_gives_the_logits_of_the_single_file(path: Path, name: str) -> None:
    single = logits(path, SHAPES[name], "Q4_0")
    files = write_split(path.with_name("cut"), SHAPES[name], "Q4_0", 3)
    assert [file.name for file in files] == [f"cut-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert np.array_equal(reference_logits(files[0], TOKENS, N_PREFILL), single)
    assert sum(len(gguf.GGUFReader(file).tensors) for file in files) == len(
        gguf.GGUFReader(path).tensors
    )
    keys = {key for key in gguf.GGUFReader(files[2]).fields if not key.startswith("GGUF.")}
    assert keys == {"split.no", "split.count", "split.tensors.count"}


def write_vocabulary(path: Path, n_vocab: int) -> None:
    """A SentencePiece-like vocabulary: three special tokens, the bytes, then two-letter words."""
    words = [f"{a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrstuvwxyz"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(words)]
    letters = list("abcdefghijklmnopqrstuvwxyz▁")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list((tokens[: n_vocab - len(letters)]) + letters)
    writer.add_token_scores([0.0] * n_vocab)
    writer.add_token_types(kinds[: n_vocab - len(letters)] + [1] * len(letters))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_model_can_carry_the_vocabulary_of_another_file(path: Path) -> None:
    vocab = path.with_name("vocab.gguf")
    shape = dataclasses.replace(SHAPES["llama"], n_vocab=900)
    write_vocabulary(vocab, shape.n_vocab)
    write_random_model(path, shape, "Q4_0", vocab=vocab)
    assert reference_logits(path, [1, 5], 2).shape == (1, shape.n_vocab)
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = binding.llama_model_load_from_file(str(path).encode(), params)
    ids = (binding.llama_token * 8)()
    n = binding.llama_tokenize(binding.llama_model_get_vocab(model), b"abcd", 4, ids, 8, True, True)
    binding.llama_model_free(model)
    tokens = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    assert [tokens[i] for i in ids[:n]] == ["<s>", "▁", "ab", "cd"]


def test_a_vocabulary_of_another_size_is_refused(path: Path) -> None:
    vocab = path.with_name("vocab.gguf")
    write_vocabulary(vocab, 700)
    with pytest.raises(ValueError, match="has 700 tokens, the shape 1003"):
        write_random_model(path, SHAPES["llama"], "F32", vocab=vocab)


def test_rows_that_do_not_fit_the_blocks_are_refused(path: Path) -> None:
    shape = dataclasses.replace(SHAPES["qwen3"], n_ff=800)
    with pytest.raises(ValueError, match=r"ffn_down\.weight has rows of 800, Q4_K blocks of 256"):
        write_random_model(path, shape, "Q4_K")


def test_a_file_llama_cpp_cannot_read_is_an_error_with_its_message(path: Path) -> None:
    path.write_bytes(b"no model at all")
    with pytest.raises(RuntimeError, match=r"llama\.cpp refuses"):
        reference_logits(path, TOKENS, N_PREFILL)


@pytest.mark.parametrize("n_prefill", [0, len(TOKENS) + 1])
def test_a_prefill_longer_than_the_tokens_or_empty_is_refused(path: Path, n_prefill: int) -> None:
    with pytest.raises(ValueError, match=f"n_prefill is {n_prefill}"):
        reference_logits(path, TOKENS, n_prefill)
