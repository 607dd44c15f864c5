"""Which experts a traced token has in each layer: noted beside what the products were given."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.engine.kv import Forget
from dure.engine.local import LocalExecutor
from dure.engine.trace import ExpertNotes, last_experts
from dure.model.architectures import architecture_of
from dure.model.gguf import open_gguf
from tests.support.cut_models import LIMITS, cut_executor, step
from tests.support.random_models import SHAPES, write_random_model


def traceable(path: Path) -> LocalExecutor:
    with open_gguf(path) as gguf:
        points = architecture_of(gguf).reduction_points
    return LocalExecutor(path, LIMITS, reduction_points=points)


def counted(executor: LocalExecutor) -> tuple[tuple[int, ...], ...]:
    """The experts of each layer that a vector came to since the inputs are gathered."""
    sums = executor.gather_inputs(on=False)
    layers = sorted(name for name in sums if name.endswith("ffn_down_exps.weight"))
    return tuple(
        tuple(expert for expert, n in enumerate(sums[name][1].ravel().tolist()) if n)
        for name in layers
    )


@pytest.mark.parametrize(
    ("name", "file_type"),
    [("llama-moe", "F32"), ("qwen3moe", "Q4_0"), ("qwen3moe", "Q8_0"), ("gpt-oss", "Q8_0")],
)
def test_the_experts_of_a_token_are_those_that_its_vectors_came_to(
    tmp_path: Path, name: str, file_type: str
) -> None:
    """With our kernels and llama.cpp's; and the logits are the same to the last bit."""
    path = tmp_path / "m.gguf"
    write_random_model(path, SHAPES[name], file_type)
    executor = traceable(path)
    untraced = step(executor, [300], 0)
    executor.trace(experts=True)
    executor.gather_inputs(on=True)
    traced = step(executor, [300], 0, kv=[Forget(0)])
    expected = counted(executor)
    (notes,) = last_experts(executor.traced())
    executor.close()
    assert notes == ExpertNotes(SHAPES[name].n_expert, expected)
    assert {len(one) for one in notes.chosen} == {SHAPES[name].n_expert_used}
    assert (traced == untraced).all()


def test_every_rank_has_its_part_of_the_same_experts(tmp_path: Path) -> None:
    """Those that the whole model chooses; each step has its own, and none once it is over."""
    path = tmp_path / "m.gguf"
    write_random_model(path, SHAPES["qwen3moe"], "Q8_0")
    whole = traceable(path)
    whole.trace(experts=True)
    for position, token in enumerate((300, 301, 302)):
        step(whole, [token], position)
    wanted = [one.experts for one in whole.traced()[0].steps]
    whole.close()
    assert len({one.chosen for one in wanted}) > 1, "tokens differ in their experts"
    with cut_executor(path, [1, 1], tmp_path) as executor:
        executor.trace(experts=True)
        for position, token in enumerate((300, 301, 302)):
            step(executor, [token], position)
        ranks = executor.traced()
        executor.trace()
        step(executor, [303], 3)
        unasked = executor.traced()
    for rank in ranks:
        assert [one.experts for one in rank.steps] == wanted
    assert last_experts(unasked) == [ExpertNotes(), ExpertNotes()]


def test_a_prompt_notes_its_first_token_and_a_dense_model_nothing(tmp_path: Path) -> None:
    path, dense = tmp_path / "m.gguf", tmp_path / "d.gguf"
    write_random_model(path, SHAPES["qwen3moe"], "Q8_0")
    executor = traceable(path)
    executor.trace(experts=True)
    step(executor, [300], 0)
    step(executor, [300, *range(400, 440)], 0, kv=[Forget(0)])
    alone, first = (one.experts for one in executor.traced()[0].steps)
    executor.close()
    assert first.chosen[0] == alone.chosen[0], "its first layer has seen no other token"
    write_random_model(dense, SHAPES["llama"], "Q8_0")
    executor = traceable(dense)
    executor.trace(experts=True)
    step(executor, [300], 0)
    assert last_experts(executor.traced()) == [ExpertNotes()]
    executor.close()
