"""What a cut would give each rank: the figures of the shards that would be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.model.cut import plan_cut
from dure.model.ggml import type_named
from dure.model.gguf import GgufWriter, TensorSpec, open_gguf
from dure.model.shard import cut_model, plan_shards, shard_sizes, sized_shards
from dure.plan.cut_report import Reencoding, cut_report
from dure.plan.memory import PROCESS_BYTES, whole_memory
from dure.plan.outline import outline_named, outlined_model
from tests.support.random_models import SHAPES, write_random_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_random_model(path, SHAPES["qwen3"], "Q4_K")
    return path


def test_a_report_says_what_shards_would_weigh_and_writes_none(path: Path) -> None:
    with open_gguf(path) as model:
        report = cut_report(model, [3, 2])
        assert [*path.parent.iterdir()] == [path]
        shards = plan_shards(model, plan_cut(model, [3, 2]), path.parent / "shards")
        cut_model(model, shards)
    assert [rank.weights_bytes for rank in report.ranks] == [s.weights_bytes for s in shards]
    for rank in report.ranks:
        assert rank.memory_bytes is not None
        assert rank.memory_bytes > rank.weights_bytes + PROCESS_BYTES
    assert (report.n_ranks, report.problem) == (2, "")


@pytest.mark.parametrize("name", ["gpt-oss:20b", "gemma3:1b", "qwen3:0.6b"])
def test_sizes_of_shards_are_those_of_all_their_tensors(name: str) -> None:
    """They are added up by tensors that are alike: with experts, a tied table, and mixed types."""
    outline = outline_named(name)
    assert outline is not None
    model = outlined_model(name, outline, "Q4_K_M")
    for shares in ([1, 1], [3, 2, 1]):
        cut = plan_cut(model, shares)
        whole = sized_shards(model, cut)
        assert shard_sizes(model, cut) == [shard.size for shard in whole]
        assert [sum(one.size_bytes for one in shard.tensors) for shard in whole] == [
            shard.weights_bytes for shard in whole
        ]


def test_a_single_rank_holds_the_model_as_it_is(path: Path) -> None:
    with open_gguf(path) as model:
        report = cut_report(model, [1])
        memory, trained = whole_memory(model)
    (whole,) = report.ranks
    assert whole.weights_bytes == memory.weights_bytes
    assert whole.memory_bytes == memory.total_bytes(trained)
    assert report.reencoded == ()


def test_what_is_reencoded_is_named_with_both_types_and_what_it_costs(path: Path) -> None:
    """768 columns in Q4_K are three blocks: over four ranks they become Q5_0."""
    with open_gguf(path) as model:
        report, plan = cut_report(model, [1] * 4), plan_cut(model, [1] * 4)
        before = sum(model.tensors[name].size_bytes for name in plan.reencoded)
        after = sum(
            plan.size_bytes(model.tensors[name], rank)
            for name in plan.reencoded
            for rank in range(4)
        )
    assert Reencoding("blk.0.ffn_down.weight", "Q4_K", "Q5_0") in report.reencoded
    assert report.reencoded_bytes == after - before > 0


def test_a_cut_that_is_impossible_says_why(path: Path) -> None:
    with open_gguf(path) as model:
        report = cut_report(model, [1] * 9)
    assert report.ranks == ()
    assert "use at most 8 ranks" in report.problem


def test_a_header_that_lacks_a_size_leaves_memory_unknown(tmp_path: Path) -> None:
    """Weights are known all the same; a cut is refused with the reason."""
    path, spec = (
        tmp_path / "model.gguf",
        TensorSpec("token_embd.weight", (32, 8), type_named("F32")),
    )
    with GgufWriter(path, {"general.architecture": "mamba"}, [spec]) as writer:
        writer.write(bytes(spec.size_bytes))
    with open_gguf(path) as model:
        (whole,) = cut_report(model, [1]).ranks
        assert "architecture mamba has no table" in cut_report(model, [1, 1]).problem
    assert (whole.weights_bytes, whole.memory_bytes) == (1024, None)
