"""Folders that lie, are incomplete or were made to harm are refused in a sentence, in little memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dure.convert.model import write_model
from dure.convert.sources import Asked, source_of
from dure.errors import ModelError, UsageError
from tests.support.huggingface_folders import (
    CONFIG,
    N_EMBD,
    Stored,
    byte_level_tokenizer,
    floats,
    llama_tensors,
    write_json,
    write_llama,
    write_raw,
    write_safetensors,
    write_wide,
)
from tests.support.peak_memory import peak_import_bytes

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def converted(folder: Path, out: Path) -> Path:
    with source_of(folder).opened(folder, Asked()) as model:
        write_model(model, out)
    return out


def refused(folder: Path, *words: str) -> None:
    """Check that a folder is refused with these words, and that nothing is written."""
    out = folder.parent / "out.gguf"
    with pytest.raises(ModelError) as refusal:
        converted(folder, out)
    message = str(refusal.value)
    for word in words:
        assert word in message
    assert len(message) < 600
    assert "\n" not in message
    assert not list(folder.parent.glob("out.gguf*"))


HEADERS: dict[str, tuple[bytes, bytes, str]] = {
    "ends after the file": (b"", b"", "its header ends at byte"),
    "is no JSON": (b"{'a': 1}", b"", "is no JSON"),
    "is a list": (b"[]", b"", "holds no object"),
    "is nested deeply": (b"[" * 100_000, b"", "is no JSON"),
    "has a name twice": (
        b'{"a": %b, "a": %b}' % ((json.dumps(ENTRY).encode(),) * 2),
        b"12345678",
        "'a' is there twice",
    ),
    "has an unknown type": (
        json.dumps({"a": {**ENTRY, "dtype": "F5"}}).encode(),
        b"12345678",
        "unknown type F5",
    ),
    "has a negative size": (
        json.dumps({"a": {**ENTRY, "shape": [-2]}}).encode(),
        b"12345678",
        "no legal shape",
    ),
    "has a size that is no number": (
        json.dumps({"a": {**ENTRY, "shape": [2.0]}}).encode(),
        b"12345678",
        "no legal shape",
    ),
    "has an absurd size": (
        json.dumps({"a": {**ENTRY, "shape": [1 << 61, 1 << 61]}}).encode(),
        b"12345678",
        "needs",
    ),
    "has bytes outside": (
        json.dumps({"a": {**ENTRY, "shape": [3], "data_offsets": [0, 12]}}).encode(),
        b"12345678",
        "cut short",
    ),
    "has offsets backwards": (
        json.dumps({"a": {**ENTRY, "data_offsets": [8, 0]}}).encode(),
        b"12345678",
        "needs 8 bytes, not -8",
    ),
    "has tensors that overlap": (
        json.dumps({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}).encode(),
        b"123456789012",
        "tensor b overlaps",
    ),
    "leaves bytes out": (
        json.dumps({"a": {**ENTRY, "data_offsets": [4, 12]}}).encode(),
        b"123456789012",
        "nobody's",
    ),
    "leaves the end out": (json.dumps({"a": ENTRY}).encode(), b"1234567890", "its tensors end at"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    """Nothing that a safetensors header says is believed before it is compared with the file."""
    folder = write_llama(tmp_path / "model")
    header, data, words = HEADERS[name]
    if header:
        write_raw(folder / "model.safetensors", header, data)
    else:
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    refused(folder, "model.safetensors", words)


def test_a_header_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    """A header of many gigabytes costs no memory, even if the file is as long as it says."""
    folder = write_llama(tmp_path / "model")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 6 << 30))
        file.truncate((6 << 30) + 8)  # a file with a hole
    refused(folder, "its header has 6442450944 bytes")  # which would not fit into a test's memory


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_pickle_is_refused_by_name_and_never_opened(tmp_path: Path, name: str) -> None:
    """A pickle could run any program. This one would leave a file."""
    folder = write_llama(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "mark"

    class Harm:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.system, (f"touch {mark}",)

    (folder / name).write_bytes(pickle.dumps(Harm()))
    refused(folder, name, "is a pickle", "safetensors")
    assert not mark.exists()


@pytest.mark.parametrize(
    "file", ["../other.safetensors", "/etc/passwd", "sub/a.safetensors", "a.bin", 7]
)
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, file: object) -> None:
    """A path in the index would have a file read that is no part of the model."""
    folder = write_llama(tmp_path / "model")
    write_safetensors(tmp_path / "other.safetensors", llama_tensors())
    weights = {"weight_map": dict.fromkeys(llama_tensors(), file)}
    write_json(folder / "model.safetensors.index.json", weights)
    refused(folder, "model.safetensors.index.json", "no safetensors file of this folder")


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """A download that lacks a file says which."""
    folder = write_llama(tmp_path / "model")
    weights = {"weight_map": dict.fromkeys(llama_tensors(), "model-00001-of-00002.safetensors")}
    write_json(folder / "model.safetensors.index.json", weights)
    refused(folder, "model-00001-of-00002.safetensors cannot be read")


def test_a_pointer_of_git_lfs_is_told_from_a_model(tmp_path: Path) -> None:
    """Who cloned a repository without its large files is told how to get them."""
    folder = write_llama(tmp_path / "model")
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model.safetensors").write_text(text)
    refused(folder, "git lfs pull")


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """Opening a pipe would wait for its writer for ever."""
    folder = write_llama(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    refused(folder, "it is no file")


def without(name: str) -> Mapping[str, Stored]:
    return {key: one for key, one in llama_tensors().items() if key != name}


TENSORS: dict[str, tuple[Mapping[str, Stored], str]] = {
    "one layer lacks a tensor": (
        without("model.layers.1.mlp.up_proj.weight"),
        "blk.1.ffn_up.weight is missing",
    ),
    "the head is missing": (without("lm_head.weight"), "output.weight is missing"),
    "a tensor is unknown": (
        {**llama_tensors(), "../../evil.weight": floats(3)},
        "none that llama.cpp knows",
    ),
    "a shape differs": (
        {**llama_tensors(), "model.layers.1.mlp.up_proj.weight": floats(8, N_EMBD)},
        "tensor blk.1.ffn_up.weight has the shape (64, 8), not (64, 96)",
    ),
    "there are no numbers": (
        {**llama_tensors(), "model.norm.weight": ("I64", (64,), bytes(512))},
        "stored in I64",
    ),
    "a tensor is empty": (
        {**llama_tensors(), "model.norm.weight": ("F32", (0,), b"")},
        "sizes from 1",
    ),
    "scales are missing": (
        {**llama_tensors(), "lm_head.weight": ("F8_E4M3", (320, 64), bytes(320 * 64))},
        "without block scales",
    ),
    "scales are too few": (
        {
            **llama_tensors(),
            "lm_head.weight": ("F8_E4M3", (320, 64), bytes(320 * 64)),
            "lm_head.weight_scale_inv": floats(1, 1),
        },
        "not (3, 1)",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_make_no_model_are_refused(tmp_path: Path, name: str) -> None:
    """What llama.cpp could not load is refused before it is written."""
    tensors, words = TENSORS[name]
    refused(write_llama(tmp_path / "model", tensors), words)


CONFIGS: dict[str, tuple[Mapping[str, object], str]] = {
    "an unknown architecture": ({"architectures": ["EvilForCausalLM"]}, "dure imports"),
    "architectures of another kind": ({"architectures": "LlamaForCausalLM"}, "not a list"),
    "absurdly many layers": ({"num_hidden_layers": 2_000_000_000}, "more than"),
    "a size that is no number": ({"hidden_size": "64"}, "not a number from 1"),
    "a size of nothing": ({"num_attention_heads": 0}, "not a number from 1"),
    "no size": ({"intermediate_size": None}, "it has no intermediate_size"),
    "another activation": ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    "positions of another kind": (
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
        "rope_type 'longrope'",
    ),
    "heads that do not fit": ({"num_attention_heads": 5}, "are no 5 heads"),
    "weights of another kind": (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantized by gptq",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, name: str) -> None:
    """Each value is checked, and what llama.cpp would compute otherwise is named."""
    values, words = CONFIGS[name]
    refused(write_llama(tmp_path / "model", config={**CONFIG, **values}), words)


def tokenizer(**model: object) -> dict[str, Any]:
    whole = byte_level_tokenizer()
    return {**whole, "model": {**whole["model"], **model}}


TOKENIZERS: dict[str, tuple[Mapping[str, object], str]] = {
    "no model": ({"version": "1.0"}, "it has no model"),
    "no vocabulary": (tokenizer(vocab={}), "no vocabulary"),
    "no merges": (tokenizer(merges=None), "no merges"),
    "a merge of one": (tokenizer(merges=[["he"]]), "not two texts"),
    "a merge of no tokens": (tokenizer(merges=["x y"]), "of texts that are no tokens"),
    "numbers beyond the embeddings": (tokenizer(vocab={"h": 999}, merges=[]), "320 embeddings"),
    "numbers twice": (tokenizer(vocab={"a": 1, "b": 1}, merges=[]), "have one number"),
    "an added token without text": (
        {**byte_level_tokenizer(), "added_tokens": [{"id": 5}]},
        "without number or text",
    ),
    "an unknown way to divide text": (byte_level_tokenizer("[a-z]+"), "'[a-z]+'"),
    "another normalizer": (
        {**byte_level_tokenizer(), "normalizer": {"type": "Lowercase"}},
        "'Lowercase'",
    ),
    "words instead of pieces": (tokenizer(type="WordPiece"), "not BPE"),
    "bytes that are missing": (
        tokenizer(byte_fallback=True, vocab={"a": 1}, merges=[]),
        "lacks the byte <0x00>",
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_with_missing_pieces_is_refused(tmp_path: Path, name: str) -> None:
    """llama.cpp would abort, or tokenize otherwise, without a word."""
    values, words = TOKENIZERS[name]
    refused(write_llama(tmp_path / "model", tokenizer=values), words)


@pytest.mark.parametrize(
    "data", [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\x7f", b"\xff" * 40, b"PK\x03\x04"]
)
def test_a_damaged_sentencepiece_model_is_refused(tmp_path: Path, data: bytes) -> None:
    """Every length in tokenizer.model is compared with the bytes that are left."""
    folder = write_llama(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(data)
    refused(folder, "tokenizer.model is no sentencepiece model")


def test_what_is_no_folder_of_a_model_is_refused(tmp_path: Path) -> None:
    """The error says what can be imported."""
    with pytest.raises(UsageError, match="Hugging Face folder"):
        source_of(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        source_of(tmp_path / "nothing")


def test_memory_stays_small(tmp_path: Path) -> None:
    """Tensors of 128 MiB each cost no more memory than those of a few kilobytes."""
    folders = write_wide(tmp_path / "small", 96), write_wide(tmp_path / "large", 1 << 19)
    peaks = [peak_import_bytes(folder, tmp_path / "out.gguf") for folder in folders]
    assert peaks[1] - peaks[0] < 64 << 20
