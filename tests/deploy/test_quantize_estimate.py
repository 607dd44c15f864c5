"""What `dure quantize` says before it starts: how long it takes, and what disk and memory it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.trust.identity import ROOT_NAME
from dure.convert.quantize.group_weights import GroupWeights, measure_weights
from dure.convert.quantize.search import Search
from dure.convert.quantize.swap_files import scratch_folder
from dure.deploy.quantize_estimate import (
    START_S,
    QuantizeEstimate,
    TextWork,
    check_original_fits,
    check_swap_room,
    estimated,
)
from dure.deploy.quantizing import likely_types
from dure.engine.instruments.speed import Speed
from dure.errors import ResourceError
from dure.model.gguf import open_gguf
from tests.support.quantizing import small_model


class Quiet:
    """A reporter for what is known already: nothing is measured."""

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        raise AssertionError(what)
        yield


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Search]:
    """On a machine that reads 1 MB of F16 a second."""
    monkeypatch.setenv("DURE_CACHE", str(tmp_path / "cache"))
    speed = Speed("F16", 1, 1e6, 1e6)
    KnownSpeeds(tmp_path / "cache" / "speeds").keep(ROOT_NAME, speed=speed)
    with open_gguf(small_model(tmp_path / "m.gguf")) as model:
        yield Search(model, None, ("Q3_K", "Q8_0"), 1, tmp_path / "cache" / "quantize")


def told(
    search: Search, text: TextWork | None, time_s: float = 1e6, bits: float | None = None
) -> QuantizeEstimate:
    n = sum(tensor.n_elements for tensor in search.model.tensors.values())
    types = None if bits is None else likely_types(search, bits * n / 8)
    return estimated(search, types, text, time_s, Quiet(), measures=True)  # type: ignore[arg-type]


def work(known: GroupWeights | None = None, written: int = 64) -> TextWork:
    return TextWork(64, written, written, 8, known)


def test_every_phase_takes_what_is_left_of_it(search: Search, tmp_path: Path) -> None:
    """Errors and swaps that are known take nothing any more, nor does a text that was read."""
    before = told(search, work())
    assert before.n_swaps > 10
    assert min(before.text_s, before.errors_s, before.swaps_s) > 0
    assert before.swap_bytes > search.model.size_bytes
    assert (before.write_s, before.file_bytes) == (0, 0)
    search.measure(1e6, lambda _: None)
    known = GroupWeights(tmp_path / "weights.json")
    with scratch_folder(tmp_path, "swaps-") as folder:
        measure_weights(search, lambda *_: 0.1, known, directory=folder, time_s=1e6)
    after = told(search, work(known, written=0))
    assert after.total_s == 0
    assert (after.n_swaps, after.n_judged, after.swap_bytes) == (0, 0, 0)


def test_reading_is_the_bytes_of_a_token_by_the_machines_speed(search: Search) -> None:
    """64 tokens are read once by the model, and once with each group swapped; 8 are written at a time."""
    tensors = search.model.tensors.values()
    token_s = sum(t.size_bytes for t in tensors if t.name != "token_embd.weight") / 1e6
    estimate = told(search, work())
    assert estimate.text_s == pytest.approx(64 * token_s + 64 / 8 * 8 * token_s, rel=0.02)
    assert estimate.swaps_s == pytest.approx(estimate.n_swaps * 64 * token_s, rel=0.1)


def test_a_swap_starts_an_engine_however_quick_the_machine(search: Search) -> None:
    """A tiny model's weights are read in no time; its estimate was a tenth of what it took."""
    KnownSpeeds(search.directory.parent / "speeds").keep(
        ROOT_NAME, speed=Speed("F16", 1, 1e15, 1e15)
    )
    estimate = told(search, work())
    assert estimate.swaps_s > estimate.n_swaps * START_S
    assert estimate.text_s > 2 * START_S


def test_measuring_keeps_to_its_time(search: Search) -> None:
    """But the first pass over all tensors, the model's own reading, and one swap are always done."""
    short, whole = told(search, work(), time_s=0), told(search, work())
    assert 0 < short.errors_s < whole.errors_s
    assert (short.n_judged, short.n_swaps, whole.n_judged) == (1, whole.n_swaps, whole.n_swaps)
    assert 0 < short.swaps_s < whole.swaps_s / 10
    some = told(search, work(), time_s=whole.errors_s * 2 + whole.text_s + whole.swaps_s / 2)
    assert 1 < some.n_judged < whole.n_swaps
    assert some.swaps_s == pytest.approx(whole.swaps_s * some.n_judged / whole.n_swaps, rel=0.2)


def test_a_file_is_as_large_as_its_bits(search: Search) -> None:
    estimate = told(search, None, bits=8.5)
    assert estimate.file_bytes == pytest.approx(search.model.size_bytes * 8.5 / 16, rel=0.05)
    assert estimate.write_s > 0
    assert (estimate.n_swaps, estimate.text_s) == (0, 0)


def test_what_does_not_fit_is_refused_with_the_way_round_it(search: Search) -> None:
    """Too little memory for the original, or too little disk for swaps: `--even` does without."""
    with pytest.raises(ResourceError, match=r"must fit into memory .*: use --even, "):
        check_original_fits(search.model, 512, 10**9)
    with pytest.raises(ResourceError, match=r"swapping .* needs .* are free there: .* --even$"):
        check_swap_room(search.directory, 1 << 60)
    check_original_fits(search.model, 512, 1)
    check_swap_room(search.directory, 1)
