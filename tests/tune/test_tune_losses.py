"""The loss of rows, against torch's own on the whole logits; steps, against torch's own optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from dure.tune.base import load_base
from dure.tune.data.rows import Row, row_of
from dure.tune.loop.losses import Arith, RowLoss, keeps_apart
from dure.tune.loop.schedule import LearningRate
from dure.tune.settings import Schedule
from tests.support.tiny_models import write_tiny_model

HERE = Arith(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a model of full attention, and one of which half of the layers see four tokens."""
    folder = tmp_path_factory.mktemp("models")
    sliding: dict[str, Any] = {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    write_tiny_model(folder / "qwen3")
    write_tiny_model(folder / "gemma3", "gemma3_text", **sliding)
    return {name: load_base(folder / name, torch.float32).model for name in ("qwen3", "gemma3")}


def example(length: int, seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    weights = random.choice([0.0, 0.1, 1.0], length).astype(np.float32)
    weights[0] = 0.0
    return random.integers(0, 256, length).astype(np.int32), weights


EXAMPLES = [example(n, n) for n in (13, 7, 21, 2, 9)]


def expected(model: Any, examples: list[tuple[Any, Any]]) -> torch.Tensor:
    """Return the loss of examples, each alone, from the model's whole logits."""
    total = torch.zeros(())
    for ids, weights in examples:
        tokens = torch.from_numpy(ids).long()[None]
        logits = model(input_ids=tokens).logits[0, :-1]
        losses = functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
        total = total + (losses * torch.from_numpy(weights[1:])).sum()
    return total


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
@pytest.mark.parametrize("pack", [True, False])
def test_rows_have_the_loss_and_the_gradient_of_their_examples_alone(
    models: dict[str, Any], name: str, pack: bool
) -> None:
    model = models[name]
    rows: list[Row] = (
        [row_of(EXAMPLES[:3]), row_of(EXAMPLES[3:])] if pack else [row_of([e]) for e in EXAMPLES]
    )
    losses = RowLoss(model, HERE, pack=pack)
    found = losses.of(losses.batch(rows))
    wanted = expected(model, EXAMPLES)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(
        gradients(model, found), gradients(model, wanted), rtol=1e-4, atol=1e-4
    )


def test_that_a_model_keeps_examples_apart_is_found_by_trying(models: dict[str, Any]) -> None:
    """One that is told to attend to everything does not, and is found out."""
    assert keeps_apart(models["qwen3"], HERE)
    assert keeps_apart(models["gemma3"], HERE)

    class Mixing(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
        config = models["qwen3"].config

        def forward(self, input_ids: Any, **_: Any) -> Any:
            return models["qwen3"](input_ids=input_ids)

    assert not keeps_apart(Mixing(), HERE)


def test_a_head_that_does_more_than_multiply_is_computed_as_the_model_does(tmp_path: Path) -> None:
    """Gemma caps its logits."""
    write_tiny_model(tmp_path, "gemma3_text", final_logit_softcapping=2.0, initializer_range=0.5)
    model = load_base(tmp_path, torch.float32).model
    losses = RowLoss(model, HERE, pack=True)
    found = losses.of(losses.batch([row_of(EXAMPLES)]))
    assert found.item() == pytest.approx(expected(model, EXAMPLES).item(), rel=1e-5)


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine_to_a_tenth() -> None:
    rate = LearningRate(1.0, 100, 0.1, Schedule.COSINE)
    assert [rate.at(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert rate.at(55) == pytest.approx(0.55)
    assert rate.at(99) == pytest.approx(0.1, abs=0.01)
    plateau = LearningRate(1.0, 100, 10, Schedule.PLATEAU)
    assert [plateau.at(step) for step in (70, 85)] == pytest.approx([1.0, 0.5])
