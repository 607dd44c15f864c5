"""Errors that are measured, kept and weighed; the types that tensors may have; the best choice of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dure.convert.importance import Importance
from dure.convert.quantize.choosing import CANDIDATES, TypeProblem, candidates, check_size, group_of
from dure.convert.quantize.llama_types import quantizable
from dure.convert.quantize.output_errors import ErrorTable, measure_errors
from dure.convert.quantize.writing import Quantized, file_type_of
from dure.errors import UsageError
from dure.model.ggml import dequantize, quantize, type_named
from dure.model.gguf import GgufFile, open_gguf
from tests.support.quantizing import MIXTURE, SMALL, importance_for, small_model

NAME = "blk.0.ffn_up.weight"
FEW = ("Q2_K", "Q4_K", "Q6_K", "Q8_0")


def measured(model: GgufFile, importance: Importance | None, path: Path) -> TypeProblem:
    types = candidates(model, quantizable(model), importance, FEW)
    table = ErrorTable(path)
    measure_errors(model, importance, types, table, threads=2, time_s=100)
    return TypeProblem(model, types, table, {}, 2)


def test_the_error_is_that_of_the_output(tmp_path: Path) -> None:
    """Against its definition on all rows: w (W - Q)^2 by w W^2, w the mean squares of the inputs."""
    with open_gguf(small_model(tmp_path / "m.gguf")) as model:
        importance = importance_for(model)
        table = ErrorTable(tmp_path / "t.json")
        measure_errors(model, importance, {NAME: ["Q3_K"]}, table, threads=1, time_s=100)
        tensor = model.tensors[NAME]
        data = model.read(tensor, 0, tensor.size_bytes)
        x = dequantize(data, tensor.type, tensor.n_elements).reshape(-1, tensor.shape[0])
    weights = importance.of(NAME)
    assert weights is not None
    encoded = quantize(x, type_named("Q3_K"), weights[0])
    decoded = dequantize(encoded, type_named("Q3_K"), x.size).reshape(x.shape)
    wanted = (weights * (x - decoded) ** 2).sum() / (weights * x**2).sum()
    assert table.error(NAME, "Q3_K") == pytest.approx(wanted, rel=1e-4)
    assert table.rows(NAME, "Q3_K") == 512


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    """A second table of the same file has all figures, and no time is needed for them."""
    with open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model:
        importance = importance_for(model)
        first = measured(model, importance, tmp_path / "t.json")
        written = (tmp_path / "t.json").read_bytes()
        again = measured(model, importance, tmp_path / "t.json")
    assert (tmp_path / "t.json").read_bytes() == written
    assert first.choose().error == again.choose().error


def test_a_damaged_table_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"blk.0.ffn_up.weight": {"Q3_K": [1, ')
    assert ErrorTable(path).error(NAME, "Q3_K") is None


def test_without_time_every_tensor_is_measured_on_a_few_rows(tmp_path: Path) -> None:
    with open_gguf(small_model(tmp_path / "m.gguf")) as model:
        table = ErrorTable(tmp_path / "t.json")
        types = candidates(model, quantizable(model), None, FEW)
        measure_errors(model, None, types, table, threads=2, time_s=0)
    assert {table.rows(name, one) for name, names in types.items() for one in names} == {32}


def test_tensors_may_have_what_their_rows_and_importances_allow(tmp_path: Path) -> None:
    """A row of 256 has blocks of 256; a tensor without importances gets no type that wants them."""
    with open_gguf(small_model(tmp_path / "m.gguf")) as model:
        found = candidates(model, quantizable(model), importance_for(model), CANDIDATES)
    assert "IQ2_XXS" in found[NAME]
    assert "IQ2_XXS" not in found["token_embd.weight"]
    assert "Q2_K" in found["token_embd.weight"]
    assert not [name for name in found if "norm" in name]


@pytest.mark.parametrize("bits", [2.7, 3.3, 4.5, 7.0])
def test_a_choice_is_within_its_size_and_near_it(tmp_path: Path, bits: float) -> None:
    with open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model:
        problem = measured(model, importance_for(model), tmp_path / "t.json")
        choice = problem.choose(problem.bytes_at(bits))
        wanted = Quantized(model, choice.types, None, file_type_of(model, choice.types), {})
        assert choice.bits_per_weight <= bits
        assert choice.bits_per_weight > bits - 0.25
        assert wanted.size_bytes == pytest.approx(choice.size_bytes, abs=32 * len(model.tensors))


def test_a_group_that_counts_more_gets_more_bits(tmp_path: Path) -> None:
    with open_gguf(small_model(tmp_path / "m.gguf")) as model:
        types = candidates(model, quantizable(model), None, FEW)
        table = ErrorTable(tmp_path / "t.json")
        measure_errors(model, None, types, table, threads=2, time_s=100)

        def bits(weights: dict[str, float]) -> float:
            problem = TypeProblem(model, types, table, weights, 2)
            type_ = problem.choose(problem.bytes_at(4.5)).types[NAME]
            return type_.type_size / type_.block_size

        group = group_of(NAME, 2)
        assert bits({group: 1000.0}) > bits({group: 0.001})


def test_a_size_below_the_smallest_types_is_refused_with_the_least(tmp_path: Path) -> None:
    with open_gguf(small_model(tmp_path / "m.gguf")) as model:
        problem = measured(model, None, tmp_path / "t.json")
        with pytest.raises(UsageError, match=r"the smallest types make it .* and .* is asked"):
            problem.choose(1000)


@pytest.mark.parametrize(
    ("n_embd", "allowed", "cure"),
    [
        (256, ("Q4_K", "Q8_0"), "ask for more, or give an importance matrix .*"),
        (288, CANDIDATES, "ask for more: in .* rows have 288 weights, no multiple of 256, .*"),
    ],
)
def test_a_size_that_nothing_has_is_refused_before_anything_is_measured(
    tmp_path: Path, n_embd: int, allowed: tuple[str, ...], cure: str
) -> None:
    """With what would help; the error of the solver, after minutes, would say the same."""
    shape = replace(SMALL, n_embd=n_embd, head_dim=n_embd // 4)
    with open_gguf(small_model(tmp_path / "m.gguf", shape)) as model:
        types = candidates(model, quantizable(model), None, allowed)
        check_size(model, types, sum(t.size_bytes for t in model.tensors.values()))
        with pytest.raises(UsageError, match=rf"the smallest types make it .* is asked: {cure}$"):
            check_size(model, types, 1000)


def test_layers_are_grouped_in_thirds() -> None:
    names = [f"blk.{i}.attn_v.weight" for i in range(6)]
    assert [group_of(name, 6)[-3:] for name in names] == ["1/3", "1/3", "2/3", "2/3", "3/3", "3/3"]
    assert group_of("output.weight", 6) == "output"


def test_experts_are_weighed_by_their_own_importances(tmp_path: Path) -> None:
    """An expert whose columns count for nothing adds nothing to the error of its stack."""
    name = "blk.0.ffn_up_exps.weight"
    with open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model:
        importance = importance_for(model, [name])
        squares = importance.squares[name]
        squares.sums[1:] = 0
        table = ErrorTable(tmp_path / "t.json")
        measure_errors(model, importance, {name: ["Q2_K"]}, table, threads=1, time_s=100)
        tensor = model.tensors[name]
        data = model.read(tensor, 0, tensor.size_bytes // 4)
    x = dequantize(data, tensor.type, tensor.n_elements // 4).reshape(-1, tensor.shape[0])
    weights = squares.mean()[0]
    encoded = quantize(x, type_named("Q2_K"), weights)
    decoded = dequantize(encoded, type_named("Q2_K"), x.size).reshape(x.shape)
    wanted = (weights * (x - decoded) ** 2).sum() / (weights * x**2).sum()
    found = table.error(name, "Q2_K")
    assert found == pytest.approx(float(np.float64(wanted)), rel=0.1)  # 512 of 1024 rows
