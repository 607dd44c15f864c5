"""Models that transformers saved are what they were: the same logits, tokens and conversations.

A program makes them, in a process that is told of nothing but a folder.
"""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dure.chat.template import ChatTemplate
from dure.convert.model import write_model
from dure.convert.sources import Asked, source_of
from dure.model.ggml import dequantize, type_named
from dure.model.gguf import GgufFile, GgufWriter, TensorSpec, open_gguf
from dure.model.vocabulary import Vocabulary
from tests.support.exact_logits import logits_of
from tests.support.huggingface_folders import (
    Stored,
    as_bf16,
    numbers,
    read_safetensors,
    write_json,
    write_safetensors,
)
from tests.support.other_clients import Person

PROGRAM = Path(__file__).parent / "programs" / "transformers_models.py"
FAMILIES = ["llama", "llama2", "qwen2", "qwen3", "qwen3moe", "gemma3", "gpt_oss", "gpt_oss_mxfp4"]
TOKENIZERS = ["llama", "llama2", "qwen2", "qwen3moe", "gemma3", "gpt_oss"]
Tensors = dict[str, Stored]


def has_inner_capital(text: str) -> bool:
    """Whether a capital outside ASCII follows a letter that is none."""
    letters = [one for one in text if not unicodedata.category(one).startswith("M")]
    return any(
        unicodedata.category(before) in ("Ll", "Lm", "Lo")
        and unicodedata.category(one) in ("Lu", "Lt")
        and not one.isascii()
        for before, one in pairwise(letters)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of everything that the program writes."""
    python = Path(sys.executable)
    folder = tmp_path_factory.mktemp("transformers")
    done = Person.moved_into(folder).run(python, PROGRAM, folder / "made")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "made"


def converted(folder: Path, out: Path) -> Path:
    with source_of(folder).opened(folder, Asked()) as model:
        write_model(model, out)
    return out


@pytest.fixture(scope="module")
def imported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that imports a model once."""
    folder, paths = tmp_path_factory.mktemp("imported"), dict[str, Path]()

    def path_of(name: str) -> Path:
        if name not in paths:
            paths[name] = converted(made / name / "model", folder / f"{name}.gguf")
        return paths[name]

    return path_of


@contextmanager
def opened(path: Path) -> Iterator[tuple[GgufFile, Vocabulary]]:
    with open_gguf(path) as gguf:
        vocabulary = Vocabulary(gguf)
        try:
            yield gguf, vocabulary
        finally:
            vocabulary.close()


def facts_of(made: Path, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((made / name / "facts.json").read_text())
    return facts


def decoded(path: Path, out: Path) -> Path:
    """Write a model once more with its MXFP4 weights as float32."""
    with open_gguf(path) as gguf:
        tensors = list(gguf.tensors.values())
        assert {"MXFP4", "F32"} == {one.type.name for one in tensors}
        specs = [TensorSpec(one.name, one.shape, type_named("F32")) for one in tensors]
        with GgufWriter(out, gguf.metadata, specs) as writer:
            for one in tensors:
                data = gguf.read(one, 0, one.size_bytes)
                writer.write(dequantize(data, one.type, one.n_elements).view(np.uint8))
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(
    made: Path, imported: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """At every position of a prompt, llama.cpp's logits differ by less than 1e-3 from float32's.

    llama.cpp rounds what it multiplies with MXFP4 to 8 bits, so these weights are decoded first.
    """
    expected = np.load(made / name / "logits.npy")
    path = imported(name)
    if name.endswith("mxfp4"):
        path = decoded(path, tmp_path / "decoded.gguf")
    found = logits_of(path, facts_of(made, name)["prompt"])
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert errors.max() < 1e-3
    assert expected.std() > 0.05  # not a model whose answers are all alike


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_are_those_of_transformers(
    made: Path, imported: Callable[[str], Path], name: str
) -> None:
    """10,000 strings of many languages, code, blanks and special tokens have the same tokens.

    llama.cpp normalizes nothing: where the tokenizer says NFC, only strings that are so are compared.
    It does not divide words before capitals outside ASCII, as gpt-oss's pattern does.
    """
    texts: list[str] = json.loads((made / "texts.json").read_text())
    expected = facts_of(made, name)["tokens"]
    with opened(imported(name)) as (_, vocabulary):
        compared = wrong = 0
        for text, tokens in zip(texts, expected, strict=True):
            if name.startswith("qwen2") and not unicodedata.is_normalized("NFC", text):
                continue
            if name == "gpt_oss" and has_inner_capital(text):
                continue
            compared += 1
            wrong += vocabulary.tokenize(text, special=True) != tokens
    assert wrong == 0
    assert compared > 6000


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepieces_own_file_gives_the_same_tokens(
    made: Path, tmp_path: Path, prefix: bool
) -> None:
    """Older folders have tokenizer.model alone: its pieces and scores are those of tokenizer.json."""
    name = "llama2" if prefix else "gemma3"
    folder = rewritten(made, tmp_path, name)
    (folder / "tokenizer.json").unlink()
    shutil.copy(made / f"sentencepiece-{prefix}.model", folder / "tokenizer.model")
    texts: list[str] = json.loads((made / "texts.json").read_text())
    expected = facts_of(made, name)["tokens"]
    compared = 0
    with opened(converted(folder, tmp_path / "out.gguf")) as (_, vocabulary):
        for text, tokens in zip(texts, expected, strict=True):
            if "<" in text:  # special tokens are not in that file
                continue
            found = vocabulary.tokenize(text, add_bos=False)
            assert found == tokens[len(tokens) - len(found) :]
            assert len(tokens) - len(found) <= 1  # the token that begins a text
            compared += 1
    assert compared > 7000


@pytest.mark.parametrize("name", TOKENIZERS)
def test_conversations_are_rendered_alike(
    made: Path, imported: Callable[[str], Path], name: str
) -> None:
    """The chat template is that of the tokenizer, and has the same texts of special tokens."""
    facts = facts_of(made, name)
    with opened(imported(name)) as (_, vocabulary):
        template = ChatTemplate(
            vocabulary.chat_template(),
            model=name,
            bos=vocabulary.bos_text,
            eos=vocabulary.eos_text,
        )
        assert vocabulary.is_end(facts["eos"])
    for n, rendered in zip((2, 4), facts["rendered"], strict=True):
        assert template.render(facts["conversation"][:n]) == rendered


def rewritten(
    made: Path,
    folder: Path,
    name: str,
    config: Callable[[dict[str, Any]], None] = lambda _: None,
    tensors: Callable[[Tensors], Tensors] = lambda same: same,
) -> Path:
    """Return a copy of a folder that another writer could have made."""
    copy = folder / "copy" / "model"  # the name is in the file
    shutil.copytree(made / name / "model", copy)
    values = json.loads((copy / "config.json").read_text())
    config(values)
    write_json(copy / "config.json", values)
    stored = read_safetensors(copy / "model.safetensors")
    write_safetensors(copy / "model.safetensors", tensors(stored))
    return copy


def as_transformers_4(config: dict[str, Any]) -> None:
    """Write a configuration in the keys of transformers 4."""
    config["torch_dtype"] = config.pop("dtype", "float32")
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope.get("rope_type") != "default" else None
    if "num_local_experts" in config and config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    config.pop("layer_types", None)


@pytest.mark.parametrize("name", FAMILIES)
def test_folders_of_transformers_4_give_the_same_file(
    made: Path, imported: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Older keys, merges with a blank between, and a template in the configuration: not a byte differs."""
    copy = rewritten(made, tmp_path, name, as_transformers_4)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    if not any(" " in part for pair in tokenizer["model"]["merges"] for part in pair):
        merges = tokenizer["model"]["merges"]
        tokenizer["model"]["merges"] = [" ".join(pair) for pair in merges]
    write_json(copy / "tokenizer.json", tokenizer)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    template = copy / "chat_template.jinja"
    write_json(copy / "tokenizer_config.json", {**settings, "chat_template": template.read_text()})
    template.unlink()
    assert converted(copy, tmp_path / "out.gguf").read_bytes() == imported(name).read_bytes()


@pytest.mark.parametrize("name", ["llama", "qwen3moe", "gpt_oss_mxfp4"])
def test_sharded_folders_give_the_same_file(
    made: Path, imported: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Tensors may lie in any of the files that the index names."""
    copy = rewritten(made, tmp_path, name)
    tensors = read_safetensors(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    files: dict[str, Tensors] = {}
    for place, tensor in enumerate(tensors):
        file = f"model-{place % 3 + 1:05}-of-00003.safetensors"
        files.setdefault(file, {})[tensor] = tensors[tensor]
    for file, part in files.items():
        write_safetensors(copy / file, part)
    index = {tensor: file for file, part in files.items() for tensor in part}
    write_json(copy / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    assert converted(copy, tmp_path / "out.gguf").read_bytes() == imported(name).read_bytes()


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_that_are_fused_give_the_same_file(
    made: Path, imported: Callable[[str], Path], tmp_path: Path, transposed: bool
) -> None:
    """Other writers save what transformers 5 has in memory, some with rows and columns exchanged."""

    def fused(tensors: Tensors) -> Tensors:
        parts: dict[str, dict[int, dict[str, NDArray[np.float32]]]] = {}
        kept: Tensors = {}
        for tensor, stored in tensors.items():
            stem, found, rest = tensor.partition(".experts.")
            if not found:
                kept[tensor] = stored
                continue
            number, part, _ = rest.split(".")
            parts.setdefault(stem, {}).setdefault(int(number), {})[part] = numbers(stored)
        for stem, experts in parts.items():
            ordered = [experts[number] for number in sorted(experts)]
            both = [np.concatenate((one["gate_proj"], one["up_proj"])) for one in ordered]
            stacks = {"gate_up_proj": both, "down_proj": [one["down_proj"] for one in ordered]}
            for part, matrices in stacks.items():
                stack = np.stack([one.T if transposed else one for one in matrices])
                kept[f"{stem}.experts.{part}"] = "F32", stack.shape, stack.tobytes()
        return kept

    copy = rewritten(made, tmp_path, "qwen3moe", tensors=fused)
    assert not any(".experts.0." in one for one in read_safetensors(copy / "model.safetensors"))
    assert converted(copy, tmp_path / "out.gguf").read_bytes() == imported("qwen3moe").read_bytes()


def test_a_text_model_within_another_gives_the_same_file(
    made: Path, imported: Callable[[str], Path], tmp_path: Path
) -> None:
    """Gemma 3 with eyes keeps its text model in text_config, and its tensors under language_model."""

    def nested(config: dict[str, Any]) -> None:
        text = dict(config)
        config.clear()
        config |= {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": text,
            "vision_config": {"hidden_size": 8},
        }

    def seeing(tensors: Tensors) -> Tensors:
        moved = {f"language_model.{name}": one for name, one in tensors.items()}
        return {**moved, "vision_tower.patch.weight": ("F32", (1,), bytes(4))}

    copy = rewritten(made, tmp_path, "gemma3", nested, seeing)
    assert converted(copy, tmp_path / "out.gguf").read_bytes() == imported("gemma3").read_bytes()


def test_bfloat16_stays_as_it_is(made: Path, tmp_path: Path) -> None:
    """Matrices in BF16 keep every bit, and norms become float32 of the same value."""
    copy = rewritten(
        made, tmp_path, "qwen3", tensors=lambda all_: {n: as_bf16(t) for n, t in all_.items()}
    )
    stored = read_safetensors(copy / "model.safetensors")
    with open_gguf(converted(copy, tmp_path / "out.gguf")) as gguf:
        down, norm = gguf.tensors["blk.1.ffn_down.weight"], gguf.tensors["output_norm.weight"]
        assert (down.type.name, norm.type.name) == ("BF16", "F32")
        assert (
            bytes(gguf.read(down, 0, down.size_bytes))
            == stored["model.layers.1.mlp.down_proj.weight"][2]
        )
        values = dequantize(gguf.read(norm, 0, norm.size_bytes), norm.type, norm.n_elements)
        assert (values == numbers(stored["model.norm.weight"])).all()
