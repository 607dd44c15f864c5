"""The search for a speed: what a file really takes is learned, and the next one comes nearer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from dure.convert.quantize.choosing import TypeChoice
from dure.convert.quantize.search import Search
from dure.deploy.quantize_machines import Machines
from dure.deploy.quantizing import ForSpeed
from dure.errors import UsageError
from dure.model.ggml import type_named
from dure.model.gguf import GgufFile, open_gguf
from tests.support.quantizing import small_model
from tests.support.random_models import Shape

DEEP = Shape("llama", 6, 256, 4, 2, 64, 512, 300)
TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
EXPECTED = {
    "Q2_K": 5e9,
    "Q3_K": 6e9,
    "Q4_K": 9e9,
    "Q5_K": 8e9,
    "Q6_K": 8e9,
    "Q8_0": 1e10,
    "F16": 1e10,
}


class Machine:
    """Where types take other times than was expected of them, and a token has a rest."""

    def __init__(self, model: GgufFile, off: Mapping[str, float], rest_s: float) -> None:
        self._model, self._off, self.rest_s = model, off, rest_s

    def between(self, search: Search, part: float) -> float:
        """Return a time between those of the quickest type everywhere and of 8 bits."""
        each = [self._all_in(search, type_name) for type_name in TYPES]
        return min(each) + part * (each[-1] - min(each))

    def _all_in(self, search: Search, type_name: str) -> float:
        types = {name: type_named(type_name) for name in search.types}
        return self.token_s(TypeChoice(types, 0.0, 0, 0.0))

    def token_s(self, choice: TypeChoice) -> float:
        """Return what a token takes."""
        taken_s = self.rest_s
        for name, tensor in self._model.tensors.items():
            if name == "token_embd.weight" or len(tensor.shape) < 2:
                continue
            type_ = choice.types.get(name, tensor.type)
            n_bytes = type_.row_bytes(tensor.shape[0]) * tensor.n_rows
            taken_s += n_bytes / EXPECTED[type_.name] * self._off.get(type_.name, 1.0)
        return taken_s


def prepared(directory: Path, model: GgufFile) -> Search:
    search = Search(model, None, TYPES, 2, directory)
    search.measure(0.0, lambda _: None)
    return search


def for_speed(search: Search) -> ForSpeed:
    machines = Machines(("here",), (EXPECTED,), ("",), (1.0,))
    return ForSpeed(search, lambda _: machines, {}, {})


@pytest.mark.parametrize(
    "off",
    [{}, {"Q2_K": 1.8, "Q3_K": 1.6}, {"Q4_K": 2.0}, {"Q2_K": 0.6, "Q4_K": 0.7, "Q6_K": 1.5}],
    ids=["as expected", "low bits slower", "one type twice as slow", "all wrong"],
)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_the_speed_is_reached_within_six_files(
    tmp_path: Path, off: Mapping[str, float], part: float
) -> None:
    """Within 2 % of a speed between the quickest and that of the model in 8 bits."""
    path = small_model(tmp_path / "m.gguf", DEEP)
    with open_gguf(path) as model:
        search = prepared(tmp_path / "kept", model)
        machine = Machine(model, off, rest_s=1e-4)
        token_s = machine.between(search, part)
        wanted = for_speed(search)
        for _ in range(6):
            choice = wanted.choose(1 / token_s)
            wanted.learn(choice, 1 / machine.token_s(choice))
            if abs(wanted.nearest(1 / token_s).token_s / token_s - 1) < 0.02:
                break
        assert wanted.nearest(1 / token_s).token_s == pytest.approx(token_s, rel=0.02)


def test_a_file_that_has_run_is_not_chosen_again_while_others_are_left(tmp_path: Path) -> None:
    """Whatever runs show: a machine whose times have nothing to do with types teaches nothing."""
    path = small_model(tmp_path / "m.gguf", DEEP)
    with open_gguf(path) as model:
        search = prepared(tmp_path / "kept", model)
        machine = Machine(model, {}, rest_s=1e-4)
        token_s = machine.between(search, 0.5)
        wanted = for_speed(search)
        seen = []
        for off in (1.4, 0.7, 1.2, 0.9):
            choice = wanted.choose(1 / token_s)
            assert choice.types not in seen
            seen.append(choice.types)
            wanted.learn(choice, 1 / (token_s * off))


def test_what_is_quick_enough_stays_if_nothing_is_near(tmp_path: Path) -> None:
    """Between two files that are 14 % too slow and 28 % too quick; within 5 % the nearest counts."""
    path = small_model(tmp_path / "m.gguf", DEEP)
    with open_gguf(path) as model:
        wanted = for_speed(prepared(tmp_path / "kept", model))
        choice = wanted.choose(1000)
        for tokens_per_s in (860, 1280):
            wanted.learn(choice, tokens_per_s)
        assert wanted.nearest(1000).token_s == pytest.approx(1 / 1280)
        wanted.learn(choice, 960)
        assert wanted.nearest(1000).token_s == pytest.approx(1 / 960)


def test_what_was_learned_is_kept_for_the_next_search(tmp_path: Path) -> None:
    """The first file of another target is near already, on the same machine alone."""
    path = small_model(tmp_path / "m.gguf", DEEP)
    with open_gguf(path) as model:
        search = prepared(tmp_path / "kept", model)
        machine = Machine(model, {"Q4_K": 1.3}, rest_s=2e-4)
        first = for_speed(search)
        begun = first.choose(1 / 8e-4)
        first.learn(begun, 1 / machine.token_s(begun))
        assert first.rest_s > 0
        assert for_speed(search).rest_s == first.rest_s
        other = Machines(("there",), (EXPECTED,), ("",), (1.0,))
        assert ForSpeed(search, lambda _: other, {}, {}).rest_s == 0


def test_too_much_is_answered_with_the_quickest_file_or_refused(tmp_path: Path) -> None:
    """After a file has run the search goes on to the quickest one; a new search says what is possible."""
    path = small_model(tmp_path / "m.gguf", DEEP)
    with open_gguf(path) as model:
        search = prepared(tmp_path / "kept", model)
        machine = Machine(model, {}, rest_s=1e-3)
        wanted = for_speed(search)
        while not wanted.was_shown(choice := wanted.choose(1 / 7e-4)):
            wanted.learn(choice, 1 / machine.token_s(choice))
        read = {type_.name for name, type_ in choice.types.items() if name != "token_embd.weight"}
        assert read == {"Q4_K"}
        with pytest.raises(UsageError, match="besides reading weights"):
            for_speed(search).choose(1 / 4e-4)


def test_shares_are_planned_again_for_the_types_that_are_chosen(tmp_path: Path) -> None:
    """Machines divide a model otherwise if its types have another size: their cut decides then."""
    path = small_model(tmp_path / "m.gguf", DEEP)
    with open_gguf(path) as model:
        search = prepared(tmp_path / "kept", model)

        def machines_for(planned: GgufFile) -> Machines:
            sizes = [
                sum(tensor.size_bytes for tensor in one.tensors.values())
                for one in (planned, model)
            ]
            is_small = sizes[0] < 0.7 * sizes[1]
            shares = (3.0, 1.0) if is_small else (1.0, 1.0)
            return Machines(("a", "b"), (EXPECTED, EXPECTED), ("", ""), shares)

        wanted = ForSpeed(search, machines_for, {}, {})
        assert wanted.machines.shares == (1.0, 1.0)
        wanted.choose(1 / 2e-4)
        assert wanted.machines.shares == (3.0, 1.0)
