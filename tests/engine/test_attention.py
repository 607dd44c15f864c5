"""Our attention against exact arithmetic, computed by llama.cpp's threads in place of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.ggml_graphs import Graph, new_graph, taking

Array = npt.NDArray[Any]
Take = Callable[[Graph], None]


@dataclass(frozen=True)
class Case:
    """Sizes of one node of attention, and what its mask lets a query see."""

    dim: int = 128
    heads: int = 8
    keys: int = 4
    tokens: int = 1
    streams: int = 1
    positions: int = 256
    past: int = 200  # positions before the first token
    window: int = 0  # positions that a token sees; 0: all up to its own
    softcap: float = 0.0
    sinks: bool = False


CASES = {
    "one token": Case(),
    "a first token": Case(past=0),
    "a prompt": Case(tokens=131, past=0),
    "a prompt after another": Case(tokens=40, past=201),
    "some guesses": Case(tokens=5),
    "a head of keys for each": Case(keys=8, tokens=3),
    "one head of keys": Case(keys=1, heads=7),
    "odd heads": Case(heads=15, keys=5, tokens=3),
    "more heads than a unit has": Case(heads=48, keys=1, tokens=2),
    "several sequences": Case(streams=3, tokens=2),
    "a long cache": Case(positions=4096, past=4000),
    "a long cache of several": Case(positions=4096, past=3000, streams=2, heads=4, keys=2),
    "a window": Case(positions=1024, past=900, window=100, tokens=4),
    "a window that blocks precede": Case(positions=4096, past=4000, window=64),
    "narrow heads": Case(dim=64, tokens=3),
    "heads of 80": Case(dim=80),
    "wide heads": Case(dim=256, tokens=9),
    "a soft cap": Case(softcap=20.0, tokens=3),
    "sinks": Case(sinks=True, tokens=3, window=50),
}


@dataclass(frozen=True)
class Inputs:
    """What a node computes with; see `Graph.attention`."""

    q: Array
    k: Array
    v: Array
    mask: Array
    sinks: Array | None

    @classmethod
    def of(cls, case: Case) -> Inputs:
        random = np.random.default_rng(case.dim + case.positions + case.tokens)
        cells = (case.streams, case.positions, case.keys, case.dim)
        position = np.arange(case.positions)
        own = case.past + np.arange(case.tokens)[:, None]
        visible = position <= own
        if case.window:
            visible &= position > own - case.window
        mask = np.where(visible, 0, -np.inf).astype(np.float16)
        shape = (case.streams, 1, case.tokens, case.positions)
        return cls(
            random.normal(0, 2, (case.streams, case.tokens, case.heads, case.dim)).astype("f4"),
            random.normal(0, 1, cells).astype("f2"),
            random.normal(0, 1, cells).astype("f2"),
            np.broadcast_to(mask, shape),
            random.normal(0, 1, case.heads).astype("f4") if case.sinks else None,
        )

    def build(self, graph: Graph, case: Case, max_bias: float = 0.0) -> None:
        graph.attention(
            *(self.q, self.k, self.v, self.mask),
            scale=case.dim**-0.5,
            max_bias=max_bias,
            softcap=case.softcap,
            sinks=self.sinks,
        )

    def exact(self, case: Case) -> Array:
        """The textbook's formula in float64."""
        repeats = case.heads // case.keys
        q = self.q.astype(float).swapaxes(1, 2)
        k = np.repeat(self.k.astype(float).swapaxes(1, 2), repeats, axis=1)
        v = np.repeat(self.v.astype(float).swapaxes(1, 2), repeats, axis=1)
        scores = q @ k.swapaxes(-1, -2) * case.dim**-0.5
        if case.softcap:
            scores = case.softcap * np.tanh(scores / case.softcap)
        weights = np.exp(scores + self.mask)
        total = weights.sum(-1, keepdims=True)
        if self.sinks is not None:
            total += np.exp(self.sinks.astype(float))[:, None, None]
        result: Array = (weights @ v / total).swapaxes(1, 2)
        return result


@pytest.fixture(name="take", scope="module")
def take_() -> Iterator[Take]:
    """Asks about a node as llama.cpp does."""
    with taking() as take:
        yield take


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("name", CASES)
def test_it_is_exact(take: Take, name: str, threads: int) -> None:
    case = CASES[name]
    inputs = Inputs.of(case)
    with new_graph() as graph:
        inputs.build(graph, case)
        take(graph)
        assert graph.operation == "CUSTOM"
        result = graph.compute(threads)
    np.testing.assert_allclose(result, inputs.exact(case), rtol=2e-5, atol=2e-5)


def test_a_query_that_sees_nothing_gets_nothing(take: Take) -> None:
    case = Case(tokens=2)
    inputs = Inputs.of(case)
    blind = np.array(inputs.mask)
    blind[:, :, 1] = -np.inf
    with new_graph() as graph:
        Inputs(inputs.q, inputs.k, inputs.v, blind, None).build(graph, case)
        take(graph)
        result = graph.compute(2)
    np.testing.assert_allclose(result[:, 0], inputs.exact(case)[:, 0], rtol=2e-5, atol=2e-5)
    assert not result[:, 1].any()


def test_what_lies_in_unused_cells_does_not_matter(take: Take) -> None:
    """A cell that no query sees holds what a forgotten sequence left there."""
    case = Case(past=70)
    inputs = Inputs.of(case)
    k, v = np.array(inputs.k), np.array(inputs.v)
    k[:, 71:] = 6e4
    v[:, 71:] = 6e4
    with new_graph() as graph:
        Inputs(inputs.q, k, v, inputs.mask, None).build(graph, case)
        take(graph)
        result = graph.compute(1)
    np.testing.assert_allclose(result, inputs.exact(case), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("case", "max_bias"),
    [(Case(dim=72), 0.0), (Case(dim=320), 0.0), (Case(positions=250), 0.0), (Case(), 8.0)],
    ids=["odd dimensions", "very wide heads", "an odd cache", "a bias by distance"],
)
def test_what_it_does_not_know_stays_llama_cpps(take: Take, case: Case, max_bias: float) -> None:
    inputs = Inputs.of(case)
    with new_graph() as graph:
        inputs.build(graph, case, max_bias)
        take(graph)
        assert graph.operation == "FLASH_ATTN_EXT"
        assert np.isfinite(graph.compute(1)).all()


def test_llama_cpp_agrees(take: Take) -> None:
    """Ours and llama.cpp's own differ by what its 16-bit sums lose."""
    case = Case(tokens=3)
    inputs = Inputs.of(case)
    results = []
    for ours in (True, False):
        with new_graph() as graph:
            inputs.build(graph, case)
            if ours:
                take(graph)
            results.append(graph.compute(1))
    assert 0 < np.abs(results[0] - results[1]).max() < 1e-2
