"""A token's numbers have the same bits alone and among others, whatever is computed beside it.

Guessed tokens, other answers and chunks of prompts come as they come; a text must not depend on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dure.engine.arrays import Floats
from dure.engine.compute.llama import LoadedModel
from dure.engine.kv import Clear
from dure.engine.limits import Limits
from tests.support.ggml_graphs import Graph, new_graph, taking
from tests.support.products import (
    REPACKED,
    ROW_MAJOR,
    Array,
    close_to,
    needs_ours,
    numbers,
    weights,
)
from tests.support.random_models import SHAPES, write_random_model

Take = Callable[[Graph], None]

FLOATS = ("F32", "F16", "BF16")
# Any number of rows lies one after the other; multiples of eight may be repacked.
LAYOUTS = [
    *(pytest.param(kind, False, id=kind) for kind in (*FLOATS, *ROW_MAJOR)),
    *(pytest.param(kind, True, id=f"{kind} repacked") for kind in REPACKED),
]

pytestmark = needs_ours


@pytest.fixture(name="take", scope="module")
def take_() -> Iterator[Take]:
    """Asks about a node as llama.cpp does."""
    with taking() as take:
        yield take


def bits(x: Array) -> Array:
    return np.ascontiguousarray(x).view(np.uint32)


# ---------------------------------------------------------------- operations


@pytest.mark.parametrize(("kind", "repacked"), LAYOUTS)
def test_a_product_is_the_same_with_any_number_of_vectors(
    take: Take, kind: str, repacked: bool
) -> None:
    """And on any number of threads; some rows fill no group."""
    matrix, x = numbers(72 if repacked else 67, 768), numbers(100, 768, seed=1)

    def product(vectors: Array, threads: int) -> Array:
        with new_graph() as graph:
            graph.product(matrix, kind, vectors, repacked=repacked)
            take(graph)
            assert graph.operation == "CUSTOM"
            return graph.compute(threads)

    alone = np.concatenate([product(x[i : i + 1], 1) for i in range(len(x))])
    for n in (*range(2, 18), 32, 40, 95, 96, 100):
        assert np.array_equal(bits(product(x[:n], 1 + n % 3)), bits(alone[:n]))


@pytest.mark.parametrize("kind", [kind for kind in ROW_MAJOR if kind in REPACKED])
@pytest.mark.parametrize("n", [1, 5, 100])
def test_a_product_is_the_same_in_both_layouts(take: Take, kind: str, n: int) -> None:
    """So a rank whose rows cannot be repacked computes what another would."""
    matrix, x = numbers(72, 768), numbers(n, 768, seed=1)
    results = []
    for repacked in (False, True):
        with new_graph() as graph:
            graph.product(matrix, kind, x, repacked=repacked)
            take(graph)
            results.append(graph.compute(2))
    assert np.array_equal(bits(results[0]), bits(results[1]))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("n", [1, 7])
def test_products_of_floats_are_exact(take: Take, kind: str, n: int) -> None:
    matrix, x = numbers(35, 256), numbers(n, 256, seed=1)
    with new_graph() as graph:
        graph.product(matrix, kind, x)
        take(graph)
        result = graph.compute(2)
    assert result == close_to(x.astype(float) @ weights(matrix, kind).T)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("width", [1, 3, 8, 24, 100, 257])
def test_floats_of_any_width_are_exact_and_the_same(take: Take, kind: str, width: int) -> None:
    """As the rank of an adapter is, which may be anything: what fills no register is multiplied too."""
    matrix, x = numbers(35, width), numbers(9, width, seed=1)

    def product(vectors: Array) -> Array:
        with new_graph() as graph:
            graph.product(matrix, kind, vectors)
            take(graph)
            assert graph.operation == "CUSTOM"
            return graph.compute(2)

    alone = np.concatenate([product(x[i : i + 1]) for i in range(len(x))])
    assert alone == close_to(x.astype(float) @ weights(matrix, kind).T)
    for n in range(2, 10):
        assert np.array_equal(bits(product(x[:n])), bits(alone[:n]))


@pytest.mark.parametrize(("kind", "repacked"), LAYOUTS)
def test_experts_are_the_same_with_any_number_of_tokens(
    take: Take, kind: str, repacked: bool
) -> None:
    """Some experts have no token, some have one, some have many."""
    random = np.random.default_rng(2)
    ids = np.stack([random.permutation(8)[:2] for _ in range(120)]).astype(np.int32)
    ids[:110, 0] = 5
    matrices, x = numbers(8, 40, 256), numbers(120, 1, 256, seed=1)

    def product(first: int, n: int, threads: int) -> Array:
        with new_graph() as graph:
            tokens = slice(first, first + n)
            graph.experts(matrices, kind, x[tokens], ids[tokens], repacked=repacked)
            take(graph)
            return graph.compute(threads)

    alone = np.concatenate([product(i, 1, 1) for i in range(len(x))])
    for n in (2, 3, 7, 16, 40, 120):
        assert np.array_equal(bits(product(0, n, 1 + n % 3)), bits(alone[:n]))


@pytest.mark.parametrize("window", [0, 300])
def test_attention_is_the_same_in_any_company(take: Take, window: int) -> None:
    """Beside other tokens, beside a longer sequence, and on any number of threads."""
    random, n_tokens, n_cells = np.random.default_rng(3), 20, 5120
    q = random.normal(0, 2, (2, n_tokens, 8, 64)).astype("f4")
    k, v = (random.normal(0, 1, (2, n_cells, 2, 64)).astype("f2") for _ in range(2))

    def attend(first: int, n: int, cells: int, threads: int, streams: int) -> Array:
        position, own = np.arange(cells), 4440 + first + np.arange(n)[:, None]
        visible = (position <= own) & (position > own - (window or n_cells))
        mask = np.where(visible, 0, -np.inf).astype(np.float16)
        with new_graph() as graph:
            graph.attention(
                q[:streams, first : first + n],
                k[:streams, :cells],
                v[:streams, :cells],
                np.broadcast_to(mask, (streams, 1, n, cells)),
                scale=0.125,
            )
            take(graph)
            assert graph.operation == "CUSTOM"
            result: Array = graph.compute(threads)[0]
            return result

    alone = np.concatenate([attend(i, 1, 4608, 1, 1) for i in range(n_tokens)])
    for n, cells, threads, streams in [
        (1, 4608, 2, 1),
        (1, 5120, 3, 1),
        (2, 4608, 1, 2),
        (5, 5120, 2, 2),
        (20, 4608, 1, 1),
        (20, 4608, 4, 1),
    ]:
        assert np.array_equal(bits(attend(0, n, cells, threads, streams)), bits(alone[:n]))


# ---------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(
            ["llama", "qwen3moe", "gemma3", "gpt-oss"], ["F16", "Q8_0", "Q4_0", "Q6_K"]
        ),
        ("gpt-oss", "MXFP4"),
    ],
)
def test_logits_are_the_same_in_any_step(tmp_path: Path, name: str, kind: str) -> None:
    """One token at a time, guessed ahead, as chunks of a prompt, beside others, and on two threads.

    The sequence is longer than what layers with a window hold.
    """
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES[name], kind)
    tokens = np.random.default_rng(4).integers(0, 900, 320).astype(np.int32)
    alone = logits(path, tokens, threads=1, chunks=[1])
    for threads, chunks, beside in [
        (2, [1], []),
        (1, [2, 1, 5], []),
        (1, [9, 16, 3], []),
        (2, [64], []),
        (1, [33], [1, 40, 0]),
        (2, [1, 4], [1, 2, 40]),
    ]:
        assert np.array_equal(bits(logits(path, tokens, threads, chunks, beside)), bits(alone))


def logits(
    path: Path, tokens: Array, threads: int, chunks: list[int], beside: list[int] | None = None
) -> Floats:
    """Return all tokens' logits. chunks: tokens of each step, beside: of another sequence, in turn."""
    limits = replace(Limits(1024, threads=threads), n_batch=128, n_outputs=128, n_sequences=2)
    model = LoadedModel(path, limits)
    model.kv.change([Clear()])
    rows: list[Floats] = []
    n_other, turn = 0, 0
    while len(rows) < len(tokens):
        at, n = len(rows), min(chunks[turn % len(chunks)], len(tokens) - len(rows))
        others = min(beside[turn % len(beside)], 900 - n_other) if beside else 0
        places = [*range(at, at + n), *range(n_other, n_other + others)]
        model.decode(
            np.concatenate([tokens[at : at + n], np.arange(others, dtype=np.int32)]),
            np.array(places, np.int32),
            np.repeat(np.arange(2, dtype=np.int32), [n, others]),
            range(n),
        )
        rows += [np.array(model.logits(i)) for i in range(n)]
        n_other, turn = n_other + others, turn + 1
    model.close()
    return np.stack(rows)
