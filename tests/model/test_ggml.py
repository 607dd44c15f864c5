"""Tensor types and conversions against the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import quants
from numpy.typing import NDArray

from dure.errors import ModelError
from dure.model.ggml import (
    LARGEST_IMPORTANCE,
    GgmlType,
    dequantize,
    ggml_type,
    needs_importance,
    quantize,
    type_named,
)

F32 = type_named("F32")


def weights(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "F16", "BF16", "F32"])
def test_encoding_and_decoding_agree_with_the_gguf_package(name: str) -> None:
    x = weights(5, 96)
    twin = gguf.GGMLQuantizationType[name]
    encoded = quantize(x, type_named(name))
    expected = quants.quantize(x, twin)
    assert encoded.tobytes() == expected.tobytes()
    decoded = dequantize(encoded, type_named(name), x.size)
    assert np.array_equal(decoded, quants.dequantize(expected, twin).ravel())


@pytest.mark.parametrize(
    ("name", "correlation"),
    [
        ("Q2_K", 0.9),
        ("Q4_K", 0.99),
        ("Q6_K", 0.999),
        ("IQ3_S", 0.97),
        ("IQ4_NL", 0.99),
        ("MXFP4", 0.98),
        ("NVFP4", 0.99),
        ("TQ2_0", 0.7),
    ],
)
def test_encoded_weights_decode_to_about_the_same(name: str, correlation: float) -> None:
    x = weights(2, 512)
    encoded = quantize(x, type_named(name))
    assert encoded.shape == (2, type_named(name).row_bytes(512))
    decoded = dequantize(encoded, type_named(name), x.size).reshape(x.shape)
    assert np.corrcoef(decoded.ravel(), x.ravel())[0, 1] > correlation


def test_types_are_those_of_the_installed_llama_cpp() -> None:
    assert ggml_type(12) is type_named("q4_k")
    q4_k = ggml_type(12)
    assert (q4_k.name, q4_k.block_size, q4_k.type_size, q4_k.quantized) == ("Q4_K", 256, 144, True)
    sizes = dict(gguf.GGML_QUANT_SIZES)
    # gguf 0.19 says 40 bytes; llama.cpp's block_q8_1 has two float16 scales
    sizes[gguf.GGMLQuantizationType.Q8_1] = (32, 36)
    for twin, (block_size, type_size) in sizes.items():
        known = ggml_type(twin)
        assert (known.name, known.block_size, known.type_size) == (twin.name, block_size, type_size)


@pytest.mark.parametrize("type_id", [-1, 4, 5, 31, 36, 255, 256, 1 << 31, 1 << 70])
def test_numbers_that_are_no_type_are_refused(type_id: int) -> None:
    with pytest.raises(ModelError, match=f"tensor type {type_id} is unknown"):
        ggml_type(type_id)


def test_conversions_that_llama_cpp_would_abort_on_are_refused() -> None:
    x = np.ones((1, 256), dtype=np.float32)
    with pytest.raises(ModelError, match="IQ2_XXS cannot be made without an importance matrix"):
        quantize(x, type_named("IQ2_XXS"))
    with pytest.raises(ModelError, match="cannot turn float32 into I8"):
        quantize(x, type_named("I8"))
    with pytest.raises(ModelError, match="cannot turn Q8_K into float32"):
        dequantize(bytes(292), type_named("Q8_K"), 256)
    with pytest.raises(ModelError, match="a row of 200 elements cannot be stored as Q4_K"):
        quantize(x[:, :200], type_named("Q4_K"))
    with pytest.raises(ModelError, match="need 144 bytes but 143 were given"):
        dequantize(bytes(143), type_named("Q4_K"), 256)
    with pytest.raises(ModelError, match="tensor type 'Q9_Z' is unknown"):
        type_named("Q9_Z")
    for weight in (np.nan, np.inf, -1e30):
        x[0, 7] = weight
        with pytest.raises(ModelError, match="cannot be stored as IQ3_S: use F32"):
            quantize(x, type_named("IQ3_S"))


def test_an_importance_makes_the_columns_that_count_more_exact() -> None:
    x = weights(64, 256)
    importance = np.where(np.arange(256) % 4 == 0, 100.0, 0.01).astype(np.float32)
    for name in ("Q4_0", "Q3_K", "Q4_K", "IQ2_S", "IQ3_XXS", "IQ4_NL"):
        type_ = type_named(name)

        def error(given: NDArray[np.float32], type_: GgmlType = type_) -> float:
            decoded = dequantize(quantize(x, type_, given), type_, x.size).reshape(x.shape)
            return float((importance * (x - decoded) ** 2).sum())

        assert error(importance) < error(np.ones(256, np.float32)), name


@pytest.mark.parametrize("name", ["IQ1_S", "IQ2_XXS", "IQ2_XS"])
def test_types_that_need_an_importance_are_made_with_one(name: str) -> None:
    x, type_ = weights(2, 512), type_named(name)
    assert needs_importance(type_)
    encoded = quantize(x, type_, np.ones(512, np.float32))
    decoded = dequantize(encoded, type_, x.size).reshape(x.shape)
    assert np.corrcoef(decoded.ravel(), x.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 2 * LARGEST_IMPORTANCE])
def test_importances_that_are_no_weights_are_refused(bad: float) -> None:
    importance = np.ones(256, np.float32)
    importance[7] = bad
    with pytest.raises(ModelError, match="an importance is no number from 0"):
        quantize(weights(1, 256), type_named("Q4_K"), importance)


def test_importances_for_other_rows_are_refused() -> None:
    with pytest.raises(ModelError, match="are not for rows of 256 elements"):
        quantize(weights(1, 256), type_named("Q4_K"), np.ones(512, np.float32))
