"""A large mixture of experts: what a token reads is not what the file holds, and the choice knows that.

The model has the header of Qwen3-30B-A3B; its weights are a hole in the file, and errors are those of
normally distributed weights, the same for all tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dure.convert.quantize.choosing import TypeChoice, TypeProblem
from dure.convert.quantize.output_errors import ErrorTable
from dure.model.ggml import dequantize, quantize, type_named
from dure.model.gguf import GgufFile, GgufWriter, TensorSpec, open_gguf
from dure.plan.type_times import TypeTimes

TYPES = ("IQ2_S", "IQ3_S", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
N_LAYER, N_EMBD, N_FF, N_EXPERT, VOCABULARY = 48, 2048, 768, 128, 151936
SIZE_BYTES = 10_300_000_000


class HeaderOnly:
    """A sink that takes the header, and makes the rest of the file a hole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, size_bytes: int) -> None:
        with self._path.open("wb") as file:
            file.truncate(size_bytes)

    def write(self, data: memoryview) -> None:
        with self._path.open("r+b") as file:
            file.write(data)

    def finish(self) -> None:
        pass

    def drop(self) -> None:
        pass


def specs() -> Iterator[TensorSpec]:
    bf16, f32 = type_named("BF16"), type_named("F32")
    yield TensorSpec("token_embd.weight", (N_EMBD, VOCABULARY), bf16)
    yield TensorSpec("output.weight", (N_EMBD, VOCABULARY), bf16)
    for layer in range(N_LAYER):
        for name, shape in {
            "attn_q": (N_EMBD, 4096), "attn_k": (N_EMBD, 512), "attn_v": (N_EMBD, 512),
            "attn_output": (4096, N_EMBD), "ffn_gate_exps": (N_EMBD, N_FF, N_EXPERT),
            "ffn_up_exps": (N_EMBD, N_FF, N_EXPERT), "ffn_down_exps": (N_FF, N_EMBD, N_EXPERT),
        }.items():  # fmt: skip
            yield TensorSpec(f"blk.{layer}.{name}.weight", shape, bf16)
        yield TensorSpec(f"blk.{layer}.ffn_gate_inp.weight", (N_EMBD, N_EXPERT), f32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GgufFile]:
    path = tmp_path_factory.mktemp("mixture") / "model.gguf"
    metadata: dict[str, bool | int | float | str] = {
        "general.architecture": "qwen3moe",
        "qwen3moe.block_count": N_LAYER,
        "qwen3moe.embedding_length": N_EMBD,
        "qwen3moe.attention.head_count": 32,
        "qwen3moe.attention.head_count_kv": 4,
        "qwen3moe.attention.key_length": 128,
        "qwen3moe.attention.value_length": 128,
        "qwen3moe.expert_feed_forward_length": N_FF,
        "qwen3moe.expert_count": N_EXPERT,
        "qwen3moe.expert_used_count": 8,
        "qwen3moe.context_length": 40960,
    }
    writer = GgufWriter(HeaderOnly(path), metadata, list(specs()))
    with pytest.raises(ValueError, match="was not written completely"), writer:
        pass
    with open_gguf(path) as opened:
        yield opened


def normal_error(name: str) -> float:
    x = np.random.default_rng(0).standard_normal((16, 512)).astype(np.float32)
    type_ = type_named(name)
    decoded = dequantize(quantize(x, type_), type_, x.size).reshape(x.shape)
    return float(((x - decoded) ** 2).sum() / (x**2).sum())


def test_at_one_size_a_token_reads_less_if_speed_counts(model: GgufFile, tmp_path: Path) -> None:
    """At 2.7 bits, 1.3 times fewer bytes per token than the choice for the size alone, or better."""
    errors = {name: [normal_error(name), 1.0, 512] for name in TYPES}
    matrices = [n for n, t in model.tensors.items() if "_inp" not in n and len(t.shape) > 1]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(dict.fromkeys(matrices, errors)))
    even = [dict.fromkeys([*TYPES, "BF16"], 1.0)]  # a byte per second: seconds are bytes
    times = TypeTimes(model, even)
    types = dict.fromkeys(matrices, TYPES)
    problem = TypeProblem(model, types, ErrorTable(path), {}, N_LAYER, times)

    def read(choice: TypeChoice) -> float:
        return choice.token_s[0]

    for_size = problem.choose(SIZE_BYTES)
    for_both = problem.choose(SIZE_BYTES, [read(for_size) / 1.3])
    assert read(for_both) <= read(for_size) / 1.3
    assert SIZE_BYTES * 0.98 < for_both.size_bytes <= SIZE_BYTES
    assert for_both.error < 2 * for_size.error
