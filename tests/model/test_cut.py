"""Cut plans: every border is legal, everything is held once, and shares are followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.errors import CutError
from dure.model import architectures
from dure.model.architectures import ARCHITECTURES, Along
from dure.model.cut import CutPlan, Span, apportion, plan_cut
from dure.model.ggml import type_named
from dure.model.gguf import GgufWriter, TensorSpec, Value, open_gguf
from tests.support.random_models import SHAPES, write_random_model

TYPES = ("F32", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "IQ4_XS", "MXFP4")


def _write_header(
    path: Path, *, kv: int, group: int, head: int, n_ff: int, n_vocab: int, down: str
) -> None:
    """A qwen3 of one layer with these sizes; its weights are a hole in the file."""
    n_embd = 256
    sizes = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": n_embd,
        "feed_forward_length": n_ff,
        "attention.head_count": kv * group,
        "attention.head_count_kv": kv,
        "attention.key_length": head,
        "attention.value_length": head,
    }
    metadata: dict[str, int | str] = {"general.architecture": "qwen3"}
    metadata |= {f"qwen3.{name}": size for name, size in sizes.items()}
    q, k = kv * group * head, kv * head
    f32, down_type = type_named("F32"), type_named(down)
    shapes = {
        "token_embd": (n_embd, n_vocab),
        "blk.0.attn_q": (n_embd, q),
        "blk.0.attn_k": (n_embd, k),
        "blk.0.attn_v": (n_embd, k),
        "blk.0.attn_output": (q, n_embd),
        "blk.0.ffn_gate": (n_embd, n_ff),
        "blk.0.ffn_up": (n_embd, n_ff),
        "blk.0.ffn_down": (n_ff, n_embd),
    }
    specs = []
    for name, shape in shapes.items():
        cut_by_rows = name.endswith(("attn_output", "ffn_down"))
        fits = cut_by_rows and shape[0] % down_type.block_size == 0
        specs.append(TensorSpec(f"{name}.weight", shape, down_type if fits else f32))
    with GgufWriter(path, metadata, specs) as writer:
        for spec in specs:
            writer.write(bytes(spec.size_bytes))


@settings(deadline=None, max_examples=60)
@given(
    kv=st.integers(1, 6),
    group=st.integers(1, 5),
    head=st.sampled_from([32, 64, 80]),
    n_ff=st.sampled_from([256, 320, 768, 1024, 1504]),
    n_vocab=st.integers(40, 700),
    down=st.sampled_from(TYPES),
    shares=st.lists(st.integers(1, 9), min_size=2, max_size=8),
)
def test_every_plan_is_legal(
    tmp_path_factory: pytest.TempPathFactory,
    kv: int,
    group: int,
    head: int,
    n_ff: int,
    n_vocab: int,
    down: str,
    shares: list[int],
) -> None:
    """Spans are in order, cover everything once, and break no block; a refusal has a reason."""
    path = tmp_path_factory.mktemp("plan") / "model.gguf"
    _write_header(path, kv=kv, group=group, head=head, n_ff=n_ff, n_vocab=n_vocab, down=down)
    with open_gguf(path) as model:
        if len(shares) > kv * group:
            with pytest.raises(CutError, match=f"use at most {kv * group} ranks"):
                plan_cut(model, shares)
            return
        plan = plan_cut(model, shares)
        _assert_covers([r[Along.HEADS] for r in plan.ranks], kv * group)
        _assert_covers([r[Along.FFN] for r in plan.ranks], n_ff)
        _assert_covers([r[Along.VOCABULARY] for r in plan.ranks], n_vocab)
        _assert_heads(plan, kv, group)
        columns = model.tensors["blk.0.ffn_down.weight"].type.block_size
        assert ("blk.0.ffn_down.weight" in plan.reencoded) == (n_ff // columns < len(shares))
        for name in ("blk.0.attn_output.weight", "blk.0.ffn_down.weight"):
            block = plan.type_of(model.tensors[name]).block_size
            widths = [plan.shape_of(model.tensors[name], i)[0] for i in range(len(shares))]
            assert all(width % block == 0 for width in widths)
            assert sum(widths) == model.tensors[name].shape[0]


def _assert_covers(spans: Sequence[Span], total: int) -> None:
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == total
    assert min(len(span) for span in spans) >= 1


def _assert_heads(plan: CutPlan, kv: int, group: int) -> None:
    """Query heads stay with their KV head, which is shared only where ranks outnumber KV heads."""
    for rank in plan.ranks:
        heads, kv_heads = rank[Along.HEADS], rank[Along.KV_HEADS]
        assert kv_heads.start == heads.start // group
        assert kv_heads.stop == math.ceil(heads.stop / group)
        assert len(heads) % len(kv_heads) == 0
    if len(plan.ranks) <= kv:
        _assert_covers([rank[Along.KV_HEADS] for rank in plan.ranks], kv)


@given(
    shares=st.lists(st.floats(0.01, 100), min_size=1, max_size=12),
    more=st.integers(0, 500),
)
def test_units_follow_shares(shares: list[float], more: int) -> None:
    """All units are given, at least one each, and none is more than a unit over its share and one."""
    n_units = len(shares) + more
    counts = apportion(n_units, shares)
    assert sum(counts) == n_units
    assert min(counts) >= 1
    # The rank that takes longest cannot give a unit to another one that would not take longer still.
    longest = max((c / s for c, s in zip(counts, shares, strict=True) if c > 1), default=0.0)
    others = min((c + 1) / s for c, s in zip(counts, shares, strict=True))
    assert longest <= others * (1 + 1e-9)


def test_too_few_units_are_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="2 units cannot be divided over 3"):
        apportion(2, [1, 1, 1])


def _model(tmp_path: Path, name: str, type_name: str = "F32") -> Path:
    path = tmp_path / "model.gguf"
    write_random_model(path, replace(SHAPES[name], n_layer=1), type_name)
    return path


@pytest.mark.parametrize("shares", [[], [0, 1], [-1, 2], [math.nan, 1], [math.inf, 1]])
def test_shares_that_are_no_shares_are_refused(shares: list[float], tmp_path: Path) -> None:
    with (
        open_gguf(_model(tmp_path, "qwen3")) as model,
        pytest.raises(CutError, match="every rank needs a number above 0, as in 3,2"),
    ):
        plan_cut(model, shares)


def test_blocks_of_256_that_forbid_a_cut_are_reencoded(tmp_path: Path) -> None:
    """768 columns in Q4_K are three blocks: two ranks keep them, four get Q5_0."""
    with open_gguf(_model(tmp_path, "qwen3", "Q4_K")) as model:
        down = model.tensors["blk.0.ffn_down.weight"]
        assert down.type.name == "Q4_K"
        assert down.name not in plan_cut(model, [1, 1]).reencoded
        assert plan_cut(model, [1] * 4).reencoded[down.name].name == "Q5_0"


@pytest.mark.parametrize("shares", [[1, 1], [7, 1]])
def test_whole_blocks_matter_more_than_shares(shares: list[float], tmp_path: Path) -> None:
    """Four heads of 64 are a block of 256: where blocks fit the ranks, nothing is re-encoded."""
    with open_gguf(_model(tmp_path, "qwen3", "Q4_K")) as model:
        plan = plan_cut(model, shares)
    assert [len(rank[Along.HEADS]) for rank in plan.ranks] == [4, 4]
    assert plan.reencoded == {}


def test_every_file_of_a_family_is_a_table_of_its_name() -> None:
    """An architecture is found because its file is there."""
    folder = Path(architectures.__file__).parent
    files = {path.stem for path in folder.glob("[a-z]*.py")} - {"base", "lookup"}
    assert files == {name.replace("-", "") for name in ARCHITECTURES}
    assert {shape.arch for shape in SHAPES.values()} == {*ARCHITECTURES}


def test_a_tensor_no_table_knows_is_named(tmp_path: Path) -> None:
    path = _model(tmp_path, "qwen3")
    with open_gguf(path) as model:
        extra = TensorSpec("blk.0.ssm_conv1d.weight", (32,), type_named("F32"))
        specs = [*model.tensors.values(), extra]
        with GgufWriter(tmp_path / "extra.gguf", dict(model.metadata), specs) as writer:
            for tensor in model.tensors.values():
                writer.write(model.read(tensor, 0, tensor.size_bytes))
            writer.write(bytes(128))
    with (
        open_gguf(tmp_path / "extra.gguf") as model,
        pytest.raises(CutError, match=r"ssm_conv1d\.weight is not in dure's table of qwen3"),
    ):
        plan_cut(model, [1, 1])


def test_an_unknown_architecture_says_which_are_known(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with GgufWriter(path, {"general.architecture": "mamba"}, []):
        pass
    with (
        open_gguf(path) as model,
        pytest.raises(CutError, match=r"architecture mamba .*qwen3moe.*run it on one rank"),
    ):
        plan_cut(model, [1, 1])


def test_a_header_that_contradicts_a_tensor_is_refused(tmp_path: Path) -> None:
    path = _model(tmp_path, "qwen3")
    with open_gguf(path) as model:
        metadata: dict[str, Value | int] = {**model.metadata, "qwen3.feed_forward_length": 512}
        with GgufWriter(
            tmp_path / "lying.gguf", dict(metadata), list(model.tensors.values())
        ) as writer:
            for tensor in model.tensors.values():
                writer.write(model.read(tensor, 0, tensor.size_bytes))
    with (
        open_gguf(tmp_path / "lying.gguf") as model,
        pytest.raises(CutError, match="the header says 512 feed-forward columns"),
    ):
        plan_cut(model, [1, 1])
