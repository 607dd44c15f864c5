"""Choices of types within a size, for a model that runs whole or cut over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.convert.quantize.choosing import TypeChoice
from dure.convert.quantize.search import Search
from dure.deploy.quantizing import choose_for_size, size_frontier
from dure.model.gguf import open_gguf
from tests.support.quantizing import MIXTURE, small_model


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    """Its experts have 256 columns: one block of Q4_K, which two ranks cannot share."""
    with open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model:
        search = Search(model, None, ("Q4_0", "Q4_K", "Q8_0"), 2, tmp_path / "cache")
        search.measure(0, lambda _: None)
        yield search


def cut_types(choice: TypeChoice) -> set[str]:
    return {type_.name for name, type_ in choice.types.items() if "ffn_down_exps" in name}


def test_types_whose_blocks_the_cut_would_break_are_left_out(search: Search) -> None:
    """Q4_K has the smaller error and the size of Q4_0: whole, it is chosen; cut, it cannot be."""
    size = search.problem({}).size_range[0]
    assert cut_types(choose_for_size(search, {}, [1], size)) == {"Q4_K"}
    assert cut_types(choose_for_size(search, {}, [1, 1], size)) == {"Q4_0"}


def test_so_are_they_at_every_size(search: Search) -> None:
    assert "Q4_K" in set[str]().union(*map(cut_types, size_frontier(search, {}, [1], 6)))
    assert "Q4_K" not in set[str]().union(*map(cut_types, size_frontier(search, {}, [1, 1], 6)))


@pytest.mark.parametrize("shares", [[1], [2, 1]])
def test_the_frontier_falls(search: Search, shares: list[int]) -> None:
    """Each larger choice has a smaller error; the largest is the model as it is."""
    points = size_frontier(search, {}, shares, 6)
    sizes, errors = [p.size_bytes for p in points], [p.error for p in points]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0
