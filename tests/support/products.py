"""Makes matrices and vectors to multiply, and what their exact products are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dure.engine.compute.llama import has_amx
from dure.hardware.probe import platform
from dure.model.ggml import dequantize, quantize, type_named
from dure.plan.kernels import is_repacked
from tests.support.ggml_graphs import Graph, new_graph

Array = npt.NDArray[Any]

_FEATURES = frozenset(platform({}, lambda _: "").features)

needs_ours = pytest.mark.skipif(
    not {"avx2", "fma", "f16c"} <= _FEATURES or has_amx(),
    reason="ours needs AVX2, and llama.cpp's AMX kernels repack for themselves",
)
_OF_BLOCKS = ("Q4_0", "Q8_0", "Q5_0", "IQ4_NL", "MXFP4")
KINDS = (*_OF_BLOCKS, "Q4_K", "Q2_K", "Q3_K", "Q5_K", "Q6_K", "IQ4_XS")
"""All types whose products the native library computes."""
REPACKED = tuple(kind for kind in KINDS if is_repacked(kind, 8, _FEATURES))
"""Those of them that llama.cpp repacks on this processor, if there are rows for it."""
ROW_MAJOR = tuple(kind for kind in KINDS if kind not in ("Q4_0", "Q4_K"))
"""Those that are computed as they are in a file."""
layouts = pytest.mark.parametrize(
    ("kind", "repacked"),
    [
        *(pytest.param(kind, False, id=kind) for kind in ROW_MAJOR),
        *(pytest.param(kind, True, id=f"{kind} repacked") for kind in REPACKED),
    ],
)
"""The types, in each layout that is computed."""


def numbers(*shape: int, seed: int = 0) -> Array:
    """Return random numbers whose rows differ in scale."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 1, (*shape[:-1], 1))
    return (random.normal(0, 1, shape) * np.exp(rows)).astype(np.float32)


def weights(x: Array, kind: str) -> Array:
    """Return a matrix after rounding to a type."""
    type_ = type_named(kind)
    blocks = quantize(x.reshape(-1, x.shape[-1]), type_)
    return dequantize(blocks.ravel(), type_, x.size).reshape(x.shape).astype(float)


def rounded(x: Array, kind: str) -> Array:
    """Return activations after rounding for matrices of a type.

    They have 8 bits, with a scale per 256 (types with superblocks), or a 16-bit scale per 32.
    """
    is_super = kind not in _OF_BLOCKS
    blocks = x.reshape(-1, 256 if is_super else 32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    stored = scale if is_super else scale.astype(np.float16)
    result: Array = np.rint(blocks * inverse) * stored.astype(float)
    return result.reshape(x.shape)


def check_product(
    take: Callable[[Graph], None], kind: str, sizes: tuple[int, int, int], *, repacked: bool
) -> None:
    """Compare a product that is ours with the exact one, on some numbers of threads.

    sizes: rows, width, vectors.
    """
    rows, width, n = sizes
    matrix, x = numbers(rows, width), numbers(n, width, seed=1)
    expected = rounded(x, kind) @ weights(matrix, kind).T
    with new_graph() as graph:
        graph.product(matrix, kind, x, repacked=repacked)
        take(graph)
        assert graph.operation == "CUSTOM"
        for threads in (1, 2, 5):
            assert graph.compute(threads) == close_to(expected)


def close_to(expected: Array, *, rel: float = 1e-4) -> Any:
    """Return what equals the expected numbers up to the order of sums."""
    return pytest.approx(expected, rel=rel, abs=0.1 * rel * float(np.abs(expected).max()))
