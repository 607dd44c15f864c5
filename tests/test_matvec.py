"""Our products of repacked matrices and few vectors: those of llama.cpp, but for the order of sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from ggml_graphs import Graph, new_graph, taking

from dure.engine.llama import has_amx
from dure.hardware.probe import platform

Array = npt.NDArray[Any]
Take = Callable[[Graph], None]

pytestmark = pytest.mark.skipif(
    "avx512_vnni" not in platform({}, lambda _: "").features or has_amx(),
    reason="ours needs AVX-512 VNNI, and llama.cpp's AMX kernels repack for themselves",
)


@pytest.fixture(name="take", scope="module")
def take_() -> Iterator[Take]:
    """Asks about a node as llama.cpp does."""
    with taking() as take:
        yield take


def numbers(*shape: int, seed: int = 0) -> Array:
    """Random ones, of unlike sizes."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 1, (*shape[:-1], 1))
    return (random.normal(0, 1, shape) * np.exp(rows)).astype(np.float32)


def weights(x: Array) -> Array:
    """What a matrix is after it was rounded to Q4_0."""
    type_ = gguf.GGMLQuantizationType.Q4_0
    exact: Array = gguf.quants.dequantize(gguf.quants.quantize(x, type_), type_)
    return exact.astype(float)


def rounded(x: Array) -> Array:
    """What activations are in 8-bit blocks of 32, whose scales have 16 bits."""
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    result: Array = np.rint(blocks * inverse) * scale.astype(np.float16).astype(float)
    return result.reshape(x.shape)


def close_to(expected: Array) -> Any:
    return pytest.approx(expected, rel=1e-4, abs=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("rows", "width", "n"),
    [
        *((8, 32, 1), (24, 64, 1), (512, 1024, 1), (64, 3072, 1), (16, 32768, 1)),
        *((512, 1024, n) for n in range(2, 9)),
    ],
)
def test_products_are_exact(take: Take, rows: int, width: int, n: int, threads: int) -> None:
    matrix, x = numbers(rows, width), numbers(n, width, seed=1)
    with new_graph() as graph:
        graph.product(matrix, "Q4_0", x)
        take(graph)
        assert graph.operation == "CUSTOM"
        result = graph.compute(threads)
    assert result == close_to(rounded(x) @ weights(matrix).T)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("own", [False, True], ids=["one vector for all", "a vector for each"])
def test_products_of_experts_are_exact(take: Take, own: bool, threads: int) -> None:
    ids = np.array([[5, 0, 3, 5]], np.int32)
    matrices, x = numbers(6, 40, 256), numbers(1, ids.size if own else 1, 256, seed=1)
    with new_graph() as graph:
        graph.experts(matrices, "Q4_0", x, ids)
        take(graph)
        assert graph.operation == "CUSTOM"
        result = graph.compute(threads)
    expected = np.einsum(
        "erw,ew->er", weights(matrices)[ids[0]], np.broadcast_to(rounded(x)[0], (4, 256))
    )
    assert result[0] == close_to(expected)


def test_zeros_give_zero_and_llama_cpp_agrees(take: Take) -> None:
    x = numbers(2, 256)
    x[0, :64] = 0
    x[1] = 0
    results = []
    for ours in (True, False):
        with new_graph() as graph:
            graph.product(numbers(32, 256), "Q4_0", x)
            if ours:
                take(graph)
            results.append(graph.compute(1))
    assert not results[0][1].any()
    assert results[0] == close_to(results[1])


@pytest.mark.parametrize("what", ["a matrix", "a very wide matrix", "two tokens' experts"])
def test_what_it_does_not_know_stays_llama_cpps(take: Take, what: str) -> None:
    with new_graph() as graph:
        match what:
            case "a matrix":
                graph.product(numbers(64, 256), "Q4_0", numbers(9, 256))
            case "a very wide matrix":
                graph.product(numbers(8, 32800), "Q4_0", numbers(1, 32800))
            case _:
                ids = np.array([[0, 1], [1, 2]], np.int32)
                graph.experts(numbers(3, 64, 256), "Q4_0", numbers(2, 2, 256), ids)
        take(graph)
        assert graph.operation.startswith("MUL_MAT")
