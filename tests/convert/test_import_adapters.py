"""An adapter of peft becomes llama.cpp's, or part of its model; both compute what peft means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from dure.convert.adapters import (
    adapter_model,
    base_of,
    gguf_model,
    is_adapter,
    merged_model,
    opened_adapter,
    requantized,
)
from dure.convert.model import write_model
from dure.errors import ModelError
from tests.support.exact_logits import logits_of
from tests.support.peft_folders import (
    PREFIX,
    Floats,
    expert_delta,
    factors,
    llama_rows,
    write_adapter_folder,
)
from tests.support.random_models import SHAPES, Shape, write_random_model

PROMPT = [3, 700, 41, 7, 220, 99, 18, 411]
MODELS: dict[str, Shape] = {name: replace(shape, n_layer=2) for name, shape in SHAPES.items()}
LAYER = "model.layers.0."


def write_base(folder: Path, name: str, type_name: str = "F32") -> Path:
    path = folder / f"{name}-{type_name}.gguf"
    write_random_model(path, MODELS[name], type_name)
    return path


def convert(base: Path, adapter: Path) -> tuple[Path, Path]:
    """Write the adapter as a GGUF, and the model with it."""
    alone, merged = adapter / "adapter.gguf", adapter / "merged.gguf"
    with gguf_model(base) as model, opened_adapter(adapter, base_of(model)) as opened:
        write_model(adapter_model(opened, base_of(model)), alone)
        write_model(merged_model(opened, model), merged)
    return alone, merged


def floats_of(path: Path) -> dict[str, Floats]:
    return {
        tensor.name: np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        for tensor in gguf.GGUFReader(path).tensors
    }


def check(
    base: Path, adapter: Path, changes: Mapping[str, Floats], *, tolerance: float = 1e-5
) -> None:
    """Check that these tensors change by so much, all others not, and that llama.cpp agrees with both."""
    alone, merged = convert(base, adapter)
    before, after = floats_of(base), floats_of(merged)
    assert after.keys() == before.keys()
    for name, weight in after.items():
        if name in changes:
            assert np.abs(changes[name]).max() > 0.01
            np.testing.assert_allclose(weight, before[name] + changes[name], atol=tolerance)
        else:
            assert np.array_equal(weight, before[name]), name
    expected = logits_of(merged, PROMPT)
    found = logits_of(base, PROMPT, alone)
    assert np.abs(logits_of(base, PROMPT) - expected).max() > 0.05
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def linear(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return columns and rows of a layer's linear modules, by transformers' names."""
    queries, keys = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    modules = {
        "self_attn.q_proj": (shape.n_embd, queries),
        "self_attn.k_proj": (shape.n_embd, keys),
        "self_attn.v_proj": (shape.n_embd, keys),
        "self_attn.o_proj": (queries, shape.n_embd),
    }
    if not shape.n_expert:
        modules |= {
            "mlp.gate_proj": (shape.n_embd, shape.n_ff),
            "mlp.up_proj": (shape.n_embd, shape.n_ff),
            "mlp.down_proj": (shape.n_ff, shape.n_embd),
        }
    return modules


TENSORS = {
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "qwen3moe", "gemma3", "gpt-oss"])
def test_every_linear_module_changes_its_tensor(tmp_path: Path, name: str) -> None:
    """Of all architectures, with Llama's queries and keys in llama.cpp's order."""
    shape = MODELS[name]
    tensors: dict[str, Floats] = {}
    changes: dict[str, Floats] = {}
    for module, (n_in, n_out) in linear(shape).items():
        found = factors(LAYER + module, n_in, n_out, 4)
        tensors |= found
        a, b = found.values()
        delta = b @ a * np.float32(8 / 4)
        if name == "llama" and module.endswith(("q_proj", "k_proj")):
            heads = shape.n_head if module.endswith("q_proj") else shape.n_head_kv
            delta = llama_rows(delta, heads)
        changes[f"blk.0.{TENSORS[module]}.weight"] = delta
    check(write_base(tmp_path, name), write_adapter_folder(tmp_path / "lora", tensors), changes)


def test_each_module_may_have_its_own_rank_and_strength(tmp_path: Path) -> None:
    """Patterns match the end of a module's name, and the first counts; the rank is the tensors'."""
    shape = MODELS["qwen3"]
    modules = {
        "self_attn.q_proj": (2, 3.0),
        "self_attn.v_proj": (4, 8.0),
        "mlp.down_proj": (6, 12.0),
    }
    tensors: dict[str, Floats] = {}
    changes: dict[str, Floats] = {}
    for module, (rank, alpha) in modules.items():
        found = factors(LAYER + module, *linear(shape)[module], rank)
        tensors |= found
        a, b = found.values()
        changes[f"blk.0.{TENSORS[module]}.weight"] = b @ a * np.float32(alpha / rank)
    folder = write_adapter_folder(
        tmp_path / "lora",
        tensors,
        rank_pattern={"q_proj": 2, "down_proj": 6},
        alpha_pattern={r"layers\.0\.self_attn\.q_proj": 3, "down_proj": 12, "q_proj": 99},
    )
    check(write_base(tmp_path, "qwen3"), folder, changes)


def test_rank_stabilized_lora_divides_by_the_root_of_the_rank(tmp_path: Path) -> None:
    """So does its GGUF, although llama.cpp divides by the rank; weights of 16 bits are read, too."""
    found = factors(LAYER + "mlp.up_proj", *linear(MODELS["qwen2"])["mlp.up_proj"], 9)
    halves = {name: array.astype(np.float16) for name, array in found.items()}
    a, b = (array.astype(np.float32) for array in halves.values())
    folder = write_adapter_folder(tmp_path / "lora", halves, use_rslora=True, r=9)
    change = b @ a * np.float32(8 / 3)
    check(write_base(tmp_path, "qwen2"), folder, {"blk.0.ffn_up.weight": change})


@pytest.mark.parametrize(
    ("name", "is_old"), [("qwen3moe", False), ("qwen3moe", True), ("gpt-oss", False)]
)
def test_experts_in_one_parameter_change_each_by_its_own(
    tmp_path: Path, name: str, *, is_old: bool
) -> None:
    """Gate and up come from one product, apart or by turns; old versions have in and out exchanged."""
    shape, n, rank = MODELS[name], MODELS[name].n_expert, 3
    wide = factors("x", shape.n_embd, 2 * shape.n_ff, n * rank)
    narrow = factors("y", shape.n_ff, shape.n_embd, n * rank, seed=1)
    gate_up, down = expert_delta(wide, n), expert_delta(narrow, n)
    if is_old:  # [experts, rows, columns] was taken for [experts, in, out]
        wide = factors("x", 2 * shape.n_ff, shape.n_embd, n * rank)
        narrow = factors("y", shape.n_embd, shape.n_ff, n * rank, seed=1)
        gate_up = expert_delta(wide, n).swapaxes(1, 2)
        down = expert_delta(narrow, n).swapaxes(1, 2)
    stem, version = f"{LAYER}mlp.experts", "0.18.1" if is_old else "0.21.2"
    tensors = {f"{stem}.base_layer.{key[2:]}": array for key, array in wide.items()}
    tensors |= {f"{stem}.{key[2:]}": array for key, array in narrow.items()}
    settings: dict[str, Any] = {"peft_version": version, "alpha_pattern": {"experts.down_proj": 3}}
    folder = write_adapter_folder(tmp_path / "lora", tensors, r=rank, **settings)
    halves = (gate_up[:, : shape.n_ff], gate_up[:, shape.n_ff :])
    if name == "gpt-oss":
        halves = (gate_up[:, 0::2], gate_up[:, 1::2])
    scale = np.float32(8 / 3)
    changes = {
        "blk.0.ffn_gate_exps.weight": halves[0] * scale,
        "blk.0.ffn_up_exps.weight": halves[1] * scale,
        "blk.0.ffn_down_exps.weight": down,  # 3 / 3
    }
    check(write_base(tmp_path, name), folder, changes)


def test_experts_that_are_modules_of_their_own_are_stacked(tmp_path: Path) -> None:
    """As transformers 4 has them; an expert that the adapter leaves out stays as it is."""
    shape = MODELS["qwen3moe"]
    tensors: dict[str, Floats] = {}
    change = np.zeros((shape.n_expert, shape.n_ff, shape.n_embd), np.float32)
    for expert in (0, 2):
        found = factors(f"{LAYER}mlp.experts.{expert}.up_proj", shape.n_embd, shape.n_ff, 4, expert)
        tensors |= found
        a, b = found.values()
        change[expert] = b @ a * 2
    folder = write_adapter_folder(tmp_path / "lora", tensors)
    check(write_base(tmp_path, "qwen3moe"), folder, {"blk.0.ffn_up_exps.weight": change})


def test_an_embedding_and_an_output_of_its_own_change(tmp_path: Path) -> None:
    """peft has the factors of an embedding the other way round, and llama.cpp a third way.

    peft saves the model's own weights of both, too: they are left out.
    """
    shape = MODELS["qwen3moe"]
    random = np.random.default_rng(5)
    a = random.standard_normal((4, shape.n_vocab), np.float32)
    b = random.standard_normal((shape.n_embd, 4), np.float32) * np.float32(0.3)
    head = factors("lm_head", shape.n_embd, shape.n_vocab, 4)
    embedding = {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    copies = {
        f"{name}.base_layer.weight": np.ones((shape.n_vocab, shape.n_embd), np.float32)
        for name in ("lm_head", "model.embed_tokens")
    }
    folder = write_adapter_folder(tmp_path / "lora", embedding | head | copies)
    head_a, head_b = head.values()
    changes = {"token_embd.weight": (b @ a).T * 2, "output.weight": head_b @ head_a * 2}
    check(write_base(tmp_path, "qwen3moe"), folder, changes)


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_K", "F16"])
def test_a_merged_tensor_keeps_its_type(tmp_path: Path, type_name: str) -> None:
    """A quantized one is quantized again, which is told; the others have their bytes."""
    found = factors(LAYER + "mlp.up_proj", *linear(MODELS["qwen3"])["mlp.up_proj"], 4)
    folder = write_adapter_folder(tmp_path / "lora", found)
    base = write_base(tmp_path, "qwen3", type_name)
    _, merged = convert(base, folder)
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(base).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(merged).tensors}
    assert {name: one.tensor_type for name, one in after.items()} == {
        name: one.tensor_type for name, one in before.items()
    }
    name = "blk.0.ffn_up.weight"
    assert all(np.array_equal(after[one].data, before[one].data) for one in before if one != name)
    a, b = found.values()
    expected = floats_of(base)[name] + b @ a * 2
    error = np.linalg.norm(floats_of(merged)[name] - expected) / np.linalg.norm(expected)
    assert error < {"Q8_0": 0.01, "Q4_K": 0.12, "F16": 0.001}[type_name]
    with gguf_model(base) as model, opened_adapter(folder, base_of(model)) as adapter:
        assert requantized(adapter) == ({} if type_name == "F16" else {type_name: 1})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"lora_bias": True}, "biases"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is pissa_niter_4"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
        ({"lora_alpha": 0}, "lora_alpha .* is 0"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan|no JSON"),
        ({"alpha_pattern": {"(": 3}}, "which is none"),
        ({"alpha_pattern": [1]}, "alpha_pattern is no object"),
    ],
)
def test_what_is_more_or_other_than_lora_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], problem: str
) -> None:
    """Nothing is dropped without a word."""
    folder = write_adapter_folder(
        tmp_path / "lora", factors(LAYER + "self_attn.q_proj", 256, 512, 4), **settings
    )
    with pytest.raises(ModelError, match=problem):
        convert(write_base(tmp_path, "qwen3"), folder)


def q_proj(**changed: npt.NDArray[Any] | None) -> dict[str, npt.NDArray[Any]]:
    """Return the factors of a module, with some of its tensors replaced, added or left out."""
    module = f"{LAYER}self_attn.q_proj."
    found: dict[str, Any] = factors(module[:-1], 256, 512, 4)
    found |= {module + name.replace("__", "."): array for name, array in changed.items()}
    return {name: array for name, array in found.items() if array is not None}


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({}, "is empty"),
        (q_proj(lora_B__weight=None), "only A of"),
        (q_proj(lora_magnitude_vector=np.ones(512, np.float32)), "magnitude_vector, which is not"),
        (q_proj(lora_B__bias=np.ones(512, np.float32)), "lora_B.bias, which is not"),
        (q_proj(lora_A__weight=np.ones((4, 255), np.float32)), "made for a matrix of"),
        (q_proj(lora_A__weight=np.ones((5, 256), np.float32)), "with rank 5 and 4"),
        (q_proj(lora_A__weight=np.ones(256, np.float32)), "no matrix"),
        (factors("model.layers.7.mlp.up_proj", 256, 768, 4), "does not have"),
        (factors("model.layers.0.mlp.router", 256, 768, 4), "does not have"),
        (factors("model.layers.0.mlp.experts", 256, 768, 4), "does not have"),
        (factors("lm_head", 256, 1003, 4), "shares with its embedding"),
        (
            {
                "model.embed_tokens.lora_embedding_A": np.ones((4, 1003), np.float32),
                "model.embed_tokens.lora_embedding_B": np.ones((256, 4), np.float32),
            },
            "also uses as its output",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: dict[str, npt.NDArray[Any]], problem: str
) -> None:
    """The error names the tensor, and which model it should be."""
    folder = write_adapter_folder(tmp_path / "lora", tensors)
    with pytest.raises(ModelError, match=problem):
        convert(write_base(tmp_path, "qwen3"), folder)


def test_damaged_folders_are_refused_and_pickles_never_opened(tmp_path: Path) -> None:
    """Each lack has its own error; a weight that is no float is one."""
    base = write_base(tmp_path, "qwen3")
    folder = write_adapter_folder(tmp_path / "lora", q_proj())
    assert is_adapter(folder)
    assert not is_adapter(tmp_path)
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cut short"):
        convert(base, folder)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert all(name.startswith((PREFIX, "__")) for name in header)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        convert(base, folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="no JSON"):
        convert(base, folder)


def test_an_architecture_that_dure_has_not_checked_is_refused(tmp_path: Path) -> None:
    """Its modules could lie in another order, which nobody would notice."""
    folder = write_adapter_folder(tmp_path / "lora", q_proj())
    with gguf_model(write_base(tmp_path, "qwen3")) as model:
        base = replace(base_of(model), architecture="phi3")
        with pytest.raises(ModelError, match="architecture phi3"), opened_adapter(folder, base):
            pass
