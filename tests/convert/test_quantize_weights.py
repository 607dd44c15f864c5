"""How much an error in each group of tensors counts: groups are swapped one at a time, each alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.convert.quantize.choosing import group_of
from dure.convert.quantize.group_weights import GroupWeights, measure_weights
from dure.convert.quantize.output_errors import Progress
from dure.convert.quantize.search import Search
from dure.convert.quantize.swap_files import scratch_folder
from dure.convert.quantize.writing import types_of
from dure.model.gguf import open_gguf
from tests.support.quantizing import small_model


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    with open_gguf(small_model(tmp_path / "m.gguf")) as model:
        search = Search(model, None, ("Q3_K", "Q4_K", "Q8_0"), 2, tmp_path / "cache")
        search.measure(100, lambda _: None)
        yield search


class Divergences:
    """Reads which group a file has swapped, and says that attn_v is ten times as far off as the others."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, path: Path, progress: Progress) -> float:
        progress(0.5)
        swapped = {group_of(n, 2) for n, kind in types_of(path).items() if kind == "Q3_K"}
        (group,) = swapped
        self.seen.append(group)
        return 0.5 if group.startswith("attn_v") else 0.05


def weights(search: Search, tmp_path: Path, found: Divergences, time_s: float) -> dict[str, float]:
    known = GroupWeights(tmp_path / "weights.json")
    with scratch_folder(tmp_path, "swaps-") as directory:
        return measure_weights(search, found, known, directory=directory, time_s=time_s)


def test_a_weight_is_the_divergence_by_the_error(search: Search, tmp_path: Path) -> None:
    """Each group is swapped once, alone."""
    found = Divergences()
    got = weights(search, tmp_path, found, 100)
    assert sorted(found.seen) == sorted(got)
    for group, weight in got.items():
        names = [name for name in search.types if group_of(name, 2) == group]
        error = sum(search.table.error(name, "Q3_K") or 0 for name in names)
        divergence = 0.5 if group.startswith("attn_v") else 0.05
        assert weight == pytest.approx(divergence / error)


def test_progress_goes_on_within_a_group(search: Search, tmp_path: Path) -> None:
    """A swap may take minutes: the half of each is told, and nothing goes back."""
    known, told = GroupWeights(tmp_path / "weights.json"), list[float]()
    with scratch_folder(tmp_path, "swaps-") as directory:
        got = measure_weights(
            search, Divergences(), known, directory=directory, time_s=100, progress=told.append
        )
    assert told == pytest.approx([n / 2 / len(got) for n in range(1, 2 * len(got) + 1)])


def test_a_group_that_was_judged_is_not_judged_again(search: Search, tmp_path: Path) -> None:
    first = weights(search, tmp_path, Divergences(), 100)
    again = Divergences()
    assert weights(search, tmp_path, again, 0) == first
    assert again.seen == []


def test_without_time_the_largest_group_is_judged_and_counts_for_all(
    search: Search, tmp_path: Path
) -> None:
    """So any --time gives a choice: the others' weight is its, as the median of those that are known."""
    found = Divergences()
    got = weights(search, tmp_path, found, 0)
    sizes: Counter[str] = Counter()
    for name in search.types:
        sizes[group_of(name, 2)] += search.model.tensors[name].n_elements
    (judged,) = found.seen
    assert sizes[judged] == max(sizes.values())
    error = sum(
        search.table.error(n, "Q3_K") or 0 for n in search.types if group_of(n, 2) == judged
    )
    assert got == dict.fromkeys(sizes, pytest.approx(0.05 / error))


def test_groups_that_time_did_not_suffice_for_count_as_the_median(
    search: Search, tmp_path: Path
) -> None:
    known = GroupWeights(tmp_path / "weights.json")
    for group in ("ffn_down 1/3", "ffn_gate 1/3", "ffn_up 1/3"):
        known.keep(f"{group} ['Q3_K']", 0.05)
    got = measure_weights(search, Divergences(), known, directory=tmp_path, time_s=0)
    judged = sorted(got[group] for group in ("ffn_down 1/3", "ffn_gate 1/3", "ffn_up 1/3"))
    assert got["attn_v 1/3"] == judged[1]
