"""Our products of matrices and many vectors: those of llama.cpp, but for the order of sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.support.ggml_graphs import Graph, new_graph, taking
from tests.support.products import (
    Array,
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


def product(
    take: Take, kind: str, matrix: Array, x: Array, threads: int, *, repacked: bool = False
) -> Array:
    with new_graph() as graph:
        graph.product(matrix, kind, x, repacked=repacked)
        take(graph)
        assert graph.operation == "CUSTOM"
        return graph.compute(threads)


@layouts
@pytest.mark.parametrize(
    ("rows", "width", "n"),
    [
        (16, 256, 16),
        (80, 512, 17),
        (48, 1280, 18),
        (1024, 1024, 19),
        (32, 8192, 33),
        (24, 256, 9),
        *((40, 256, n) for n in (95, 96, 100)),
        *((16, 256, n) for n in range(20, 25)),
    ],
)
def test_products_are_exact(
    take: Take, kind: str, repacked: bool, rows: int, width: int, n: int
) -> None:
    check_product(take, kind, (rows, width, n), repacked=repacked)


@layouts
@pytest.mark.parametrize("own", [False, True], ids=["one vector for all", "a vector for each"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_products_of_experts_are_exact(
    take: Take, kind: str, repacked: bool, threads: int, own: bool
) -> None:
    """One expert has no token, others have few or many."""
    random = np.random.default_rng(2)
    ids = np.stack([random.permutation([0, 1, 2, 3, 4])[:2] for _ in range(24)]).astype(np.int32)
    ids[:20, 0] = 6
    matrices, x = numbers(7, 48, 512), numbers(24, 2 if own else 1, 512, seed=1)
    with new_graph() as graph:
        graph.experts(matrices, kind, x, ids, repacked=repacked)
        take(graph)
        assert graph.operation == "CUSTOM"
        result = graph.compute(threads)
    each = np.broadcast_to(rounded(x, kind), (24, 2, 512))
    assert result == close_to(np.einsum("terw,tew->ter", weights(matrices, kind)[ids], each))


@layouts
def test_the_largest_numbers_overflow_nothing(take: Take, kind: str, repacked: bool) -> None:
    """All weights and activations at an end of their range, where 16-bit sums are full."""
    for sign in (1, -1):
        matrix = np.full((16, 512), 1.5 * sign, np.float32)  # MXFP4 has 6 times a power of two
        matrix[:, ::32] *= -1  # so that a block with a minimum has more than one value
        x = np.full((16, 512), 3, np.float32)
        expected = rounded(x, kind) @ weights(matrix, kind).T
        assert product(take, kind, matrix, x, 1, repacked=repacked) == close_to(expected)


@layouts
def test_zeros_give_zero_and_llama_cpp_agrees(take: Take, kind: str, repacked: bool) -> None:
    matrix, x = numbers(64, 512), numbers(16, 512)
    x[0, :256] = 0
    x[1] = 0
    with new_graph() as graph:
        graph.product(matrix, kind, x, repacked=repacked)
        llamas = graph.compute(1)
    result = product(take, kind, matrix, x, 1, repacked=repacked)
    assert not result[1].any()
    assert result == close_to(llamas)


def test_one_after_the_other_and_larger_each_time(take: Take) -> None:
    """What was kept for one node serves the next."""
    for n in (16, 40, 17):
        x = numbers(n, 256, seed=n)
        matrix = numbers(32, 256, seed=n)
        expected = rounded(x, "Q8_0") @ weights(matrix, "Q8_0").T
        assert product(take, "Q8_0", matrix, x, 2) == close_to(expected)


def test_what_it_does_not_know_stays_llama_cpps(take: Take) -> None:
    with new_graph() as graph:
        graph.product(numbers(64, 256), "Q5_1", numbers(32, 256))
        take(graph)
        assert graph.operation == "MUL_MAT"
