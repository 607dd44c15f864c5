"""What a type of a tensor costs of a token's time: bytes that are read, by rank, and the cuts it allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.errors import CutError
from dure.model.cut import plan_cut
from dure.model.ggml import type_named
from dure.model.gguf import open_gguf
from dure.plan.type_times import TypeTimes, legal_cuts, read_part
from tests.support.quantizing import MIXTURE, SMALL, small_model
from tests.support.random_models import SHAPES

Q4_K, Q4_0, Q8_0 = (type_named(name) for name in ("Q4_K", "Q4_0", "Q8_0"))


def test_of_experts_a_token_reads_those_that_are_used(tmp_path: Path) -> None:
    with open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model:
        parts = {name: read_part(model, tensor) for name, tensor in model.tensors.items()}
    assert parts["blk.0.ffn_up_exps.weight"] == 2 / 4
    assert parts["blk.0.attn_q.weight"] == 1
    assert parts["blk.0.ffn_gate_inp.weight"] == 1


def test_a_table_is_looked_up_unless_it_is_the_output_too(tmp_path: Path) -> None:
    for shape, part in ((SMALL, 0.0), (SHAPES["qwen3"], 1.0)):
        with open_gguf(small_model(tmp_path / f"{shape.arch}.gguf", shape)) as model:
            assert read_part(model, model.tensors["token_embd.weight"]) == part


def test_time_is_bytes_by_speed(tmp_path: Path) -> None:
    speeds = [{"Q4_0": 1e9, "Q8_0": 2e9}]
    with open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model:
        times = TypeTimes(model, speeds)
        up = model.tensors["blk.0.ffn_up_exps.weight"]
        n = up.n_elements
    assert times(up, Q4_0) == (n / 32 * 18 / 1e9 / 2,)
    assert times(up, Q8_0) == (n / 32 * 34 / 2e9 / 2,)


def test_the_ranks_of_a_cut_read_what_they_hold(tmp_path: Path) -> None:
    """Together all of a matrix that is cut; each all of what is not."""
    with open_gguf(small_model(tmp_path / "m.gguf", SHAPES["llama"])) as model:
        plan = plan_cut(model, [2, 1])
        times = TypeTimes(model, [{}, {}], plan)
        for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output.weight"):
            tensor = model.tensors[name]
            assert sum(times.read_bytes(tensor, tensor.type)) == tensor.size_bytes


def test_types_whose_blocks_a_cut_would_break_are_not_allowed(tmp_path: Path) -> None:
    """Experts of 256 columns are one block of Q4_K, which two ranks cannot share."""
    with open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model:
        plans = legal_cuts(model, [1, 1])
        down, up = (model.tensors[f"blk.0.ffn_{one}_exps.weight"] for one in ("down", "up"))
        assert len(plans) == 1
        times = TypeTimes(model, [{}, {}], plans[0])
        assert times.allows(down, Q4_0)
        assert not times.allows(down, Q4_K)
        assert times.allows(up, Q4_K)


def test_each_grain_that_fits_is_a_cut_of_its_own(tmp_path: Path) -> None:
    """768 columns over two ranks: 512 and 256 in blocks of 256, and 384 each in smaller ones."""
    with open_gguf(small_model(tmp_path / "m.gguf", SHAPES["llama"])) as model:
        plans = legal_cuts(model, [1, 1])
        down = model.tensors["blk.0.ffn_down.weight"]
        widths = {tuple(plan.shape_of(down, rank)[0] for rank in (0, 1)) for plan in plans}
    assert widths == {(512, 256), (384, 384)}
    assert all(not plan.reencoded for plan in plans)


def test_more_ranks_than_blocks_are_refused(tmp_path: Path) -> None:
    with (
        open_gguf(small_model(tmp_path / "m.gguf", MIXTURE)) as model,
        pytest.raises(CutError, match=r"over 9 ranks|9 ranks are more"),
    ):
        legal_cuts(model, [1] * 9)
