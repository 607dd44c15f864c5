"""Rows times a number each, by us: to the last bit what llama.cpp computes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.ggml_graphs import new_graph, taking
from tests.support.products import numbers


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("turned", [False, True], ids=["as it lies", "rows apart"])
@pytest.mark.parametrize("shape", [(1, 8, 256), (3, 8, 100), (1, 1, 33)])
def test_every_row_has_its_factor(shape: tuple[int, ...], turned: bool, threads: int) -> None:
    x, factors = numbers(*shape), numbers(*shape[:2], 1, seed=1)
    results = []
    for ours in (True, False):
        with taking() as take, new_graph() as graph:
            graph.scaled(x, factors, turned=turned)
            if ours:
                take(graph)
                assert graph.operation == "CUSTOM"
            results.append(graph.compute(threads))
    expected = x * factors
    assert np.array_equal(results[0], expected.swapaxes(0, 1) if turned else expected)
    assert np.array_equal(results[0], results[1])


@pytest.mark.parametrize("factors", [(1, 8, 256), (1, 1, 256), (1, 1, 1)])
def test_other_products_stay_llama_cpps(factors: tuple[int, ...]) -> None:
    with taking() as take, new_graph() as graph:
        graph.scaled(numbers(1, 8, 256), numbers(*factors))
        take(graph)
        assert graph.operation == "MUL"
