"""Weights keep their values: in every type they come in, in every type they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dure.convert.model import write_model
from dure.convert.sources import Asked, source_of
from dure.errors import ModelError
from dure.model.ggml import dequantize, quantize, type_named
from dure.model.gguf import open_gguf
from tests.support.exact_logits import logits_of
from tests.support.huggingface_folders import (
    CONFIG,
    Stored,
    as_bf16,
    floats,
    llama_tensors,
    numbers,
    write_llama,
)

N_HEAD, BLOCK = 4, 48


def converted(folder: Path, type_: str | None = None) -> Path:
    out = folder.with_suffix(".gguf")
    with source_of(folder).opened(folder, Asked(type_named(type_) if type_ else None)) as model:
        write_model(model, out)
    return out


def values(path: Path, name: str) -> tuple[str, NDArray[np.float32]]:
    """Return a tensor's type and numbers, as torch shapes them."""
    with open_gguf(path) as gguf:
        tensor = gguf.tensors[name]
        data = gguf.read(tensor, 0, tensor.size_bytes)
        return tensor.type.name, dequantize(data, tensor.type, tensor.n_elements).reshape(
            tensor.shape[::-1]
        )


def decoded(code: int) -> float:
    """Return what 8 bits mean: a sign, 4 bits of exponent, 3 bits of mantissa."""
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def float8(*shape: int, scales: str = "F32") -> tuple[Stored, Stored, NDArray[np.float32]]:
    """Return a matrix of 8-bit floats, a scale for each of its blocks, and what they mean."""
    random = np.random.default_rng(shape)
    codes = random.integers(0, 256, shape, dtype=np.uint8)
    codes[codes & 127 == 127] = 8  # no number
    scale = floats(*(-(-size // BLOCK) for size in shape), seed=9)
    scale = scale if scales == "F32" else as_bf16(scale)
    meant = np.array([decoded(code) for code in codes.ravel().tolist()], np.float32).reshape(shape)
    for place in np.ndindex(*shape):
        meant[place] *= numbers(scale)[place[0] // BLOCK, place[1] // BLOCK]
    return ("F8_E4M3", shape, codes.tobytes()), scale, meant


def in_pairs(matrix: NDArray[np.float32], n_head: int) -> NDArray[np.float32]:
    """Return a matrix whose rotated rows lie side by side, as llama.cpp wants them of Llama."""
    size = len(matrix) // n_head
    rows = [
        head * size + half * (size // 2) + pair
        for head in range(n_head)
        for pair in range(size // 2)
        for half in range(2)
    ]
    return matrix[rows]


@pytest.mark.parametrize("scales", ["F32", "BF16"])
def test_8_bit_floats_are_scaled_block_by_block(tmp_path: Path, scales: str) -> None:
    """Blocks at the edges are smaller; rows that change places take their scales along."""
    tensors = llama_tensors()
    for name, shape in {"mlp.up_proj": (96, 64), "self_attn.q_proj": (64, 64)}.items():
        matrix, scale, meant = float8(*shape, scales=scales)
        tensors[f"model.layers.1.{name}.weight"] = matrix
        tensors[f"model.layers.1.{name}.weight_scale_inv"] = scale
        if name == "mlp.up_proj":
            expected = meant
    method = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "fmt": "e4m3"}
    folder = write_llama(tmp_path / "m", tensors, {**CONFIG, "quantization_config": method})
    exact = converted(folder, "F32")
    assert (values(exact, "blk.1.ffn_up.weight")[1] == expected).all()
    turned = in_pairs(float8(64, 64, scales=scales)[2], N_HEAD)
    assert (values(exact, "blk.1.attn_q.weight")[1] == turned).all()
    type_, kept = values(converted(folder), "blk.1.ffn_up.weight")
    assert type_ == "BF16"
    np.testing.assert_allclose(kept, expected, rtol=2**-8)


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "Q8_0"])
def test_matrices_get_the_type_that_is_asked_for(tmp_path: Path, type_: str) -> None:
    """Each has the type, and the values that llama.cpp's own encoder gives; norms are float32."""
    folder = write_llama(tmp_path / "m")
    path, matrix = converted(folder, type_), numbers(llama_tensors()["model.embed_tokens.weight"])
    encoded = quantize(matrix, type_named(type_))
    expected = dequantize(encoded, type_named(type_), matrix.size).reshape(matrix.shape)
    found, embeddings = values(path, "token_embd.weight")
    assert found == type_
    assert (embeddings == expected).all()
    found, norm = values(path, "blk.0.attn_norm.weight")
    assert found == "F32"
    assert (norm == numbers(llama_tensors()["model.layers.0.input_layernorm.weight"])).all()


def test_rows_that_q8_0_cannot_hold_become_f16(tmp_path: Path) -> None:
    """A row of 80 is no multiple of 32: its tensor is F16, as in llama.cpp's converter, the others not."""
    tensors = llama_tensors()
    for layer in range(2):
        for name, shape in {"gate": (80, 64), "up": (80, 64), "down": (64, 80)}.items():
            tensors[f"model.layers.{layer}.mlp.{name}_proj.weight"] = floats(*shape)
    folder = write_llama(tmp_path / "m", tensors, {**CONFIG, "intermediate_size": 80})
    path = converted(folder, "Q8_0")
    assert values(path, "blk.0.ffn_down.weight")[0] == "F16"
    assert values(path, "blk.0.ffn_up.weight")[0] == "Q8_0"


def test_a_number_that_a_type_cannot_hold_is_named(tmp_path: Path) -> None:
    """F16 ends at 65504; infinity instead would make every answer nonsense."""
    tensors = llama_tensors()
    huge = np.full((320, 64), 1e6, "<f4").tobytes()
    tensors["lm_head.weight"] = "F32", (320, 64), huge
    folder = write_llama(tmp_path / "m", tensors)
    with pytest.raises(ModelError, match=r"tensor output\.weight has numbers beyond .*bf16"):
        converted(folder, "F16")
    assert values(converted(folder, "BF16"), "output.weight")[0] == "BF16"


def test_a_mixed_folder_keeps_each_type(tmp_path: Path) -> None:
    """Without a type each matrix keeps its own: nothing is lost, and nothing grows."""
    tensors = llama_tensors()
    tensors["model.layers.0.mlp.up_proj.weight"] = as_bf16(
        tensors["model.layers.0.mlp.up_proj.weight"]
    )
    path = converted(write_llama(tmp_path / "m", tensors))
    assert values(path, "blk.0.ffn_up.weight")[0] == "BF16"
    assert values(path, "blk.1.ffn_up.weight")[0] == "F32"


def test_a_tied_head_is_not_written_twice(tmp_path: Path) -> None:
    """A copy of the head that some writers keep is left out: transformers does not read it either."""
    folder = write_llama(tmp_path / "m", config={**CONFIG, "tie_word_embeddings": True})
    path = converted(folder)
    with open_gguf(path) as gguf:
        assert "output.weight" not in gguf.tensors
    assert logits_of(path, [5, 6, 7]).shape == (3, 320)
