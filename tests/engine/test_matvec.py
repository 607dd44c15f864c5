"""Our products of matrices and few vectors: those of llama.cpp, but for the order of sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.support.ggml_graphs import Graph, new_graph, taking
from tests.support.products import (
    check_product,
    close_to,
    layouts,
    needs_ours,
    numbers,
    rounded,
    weights,
)

Take = Callable[[Graph], None]

pytestmark = needs_ours


@pytest.fixture(name="take", scope="module")
def take_() -> Iterator[Take]:
    """Asks about a node as llama.cpp does."""
    with taking() as take:
        yield take


@pytest.mark.parametrize(
    ("rows", "width", "n"),
    [
        *((8, 256, 1), (24, 512, 1), (512, 1024, 1), (64, 3072, 1), (16, 32768, 1)),
        *((512, 1024, n) for n in range(2, 9)),
    ],
)
@layouts
def test_products_are_exact(
    take: Take, kind: str, repacked: bool, rows: int, width: int, n: int
) -> None:
    check_product(take, kind, (rows, width, n), repacked=repacked)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("own", [False, True], ids=["one vector for all", "a vector for each"])
@layouts
def test_products_of_experts_are_exact(
    take: Take, kind: str, repacked: bool, own: bool, threads: int
) -> None:
    ids = np.array([[5, 0, 3, 5]], np.int32)
    matrices, x = numbers(6, 40, 256), numbers(1, ids.size if own else 1, 256, seed=1)
    with new_graph() as graph:
        graph.experts(matrices, kind, x, ids, repacked=repacked)
        take(graph)
        assert graph.operation == "CUSTOM"
        result = graph.compute(threads)
    expected = np.einsum(
        "erw,ew->er",
        weights(matrices, kind)[ids[0]],
        np.broadcast_to(rounded(x, kind)[0], (4, 256)),
    )
    assert result[0] == close_to(expected)


@layouts
def test_zeros_give_zero_and_llama_cpp_agrees(take: Take, kind: str, repacked: bool) -> None:
    x = numbers(2, 512)
    x[0, :256] = 0
    x[1] = 0
    results = []
    for ours in (True, False):
        with new_graph() as graph:
            graph.product(numbers(32, 512), kind, x, repacked=repacked)
            if ours:
                take(graph)
            results.append(graph.compute(1))
    assert not results[0][1].any()
    assert results[0] == close_to(results[1])


def test_a_very_wide_matrix_is_exact(take: Take) -> None:
    """Vectors that do not fit the stack."""
    matrix, x = numbers(8, 32800), numbers(1, 32800, seed=1)
    with new_graph() as graph:
        graph.product(matrix, "Q4_0", x, repacked=True)
        take(graph)
        assert graph.operation == "CUSTOM"
        result = graph.compute(2)
    assert result == close_to(rounded(x, "Q4_0") @ weights(matrix, "Q4_0").T)
