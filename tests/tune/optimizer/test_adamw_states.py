"""States of fewer bits: they train as float32 does, and do not stall."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dure.tune.optimizer import OffloadedAdamW
from dure.tune.state_format import StateFormat
from tests.tune.optimizer.small_model import SmallModel, batch, evaluation_loss, text_ids

N_STEPS, LR = 500, 3e-3


def final_loss(state: StateFormat | None, dtype: torch.dtype) -> float:
    """Train the small model, without a state by torch's AdamW; return its loss on new text."""
    model = SmallModel(dtype=dtype)
    ids = text_ids(2000, seed=0)
    optimizer: torch.optim.Optimizer
    if state is None:
        optimizer = torch.optim.AdamW(model.parameters(), LR)
    else:
        optimizer = OffloadedAdamW(model.parameters(), LR, state=state, max_norm=1.0)
    for step in range(N_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 20) * (1 - 0.9 * step / N_STEPS)
        optimizer.zero_grad()
        model.loss(batch(ids, step)).backward()
        if state is None:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return evaluation_loss(model)


@pytest.fixture(name="reference", scope="module")
def reference_() -> float:
    return final_loss(None, torch.float32)


@pytest.mark.parametrize(
    ("state", "dtype"),
    [
        ("fp32", torch.float32),
        ("bf16", torch.float32),
        ("8bit", torch.float32),
        ("8bit", torch.bfloat16),
    ],
)
def test_a_language_model_ends_at_the_same_loss(
    reference: float, state: StateFormat, dtype: torch.dtype
) -> None:
    """To one percent; it has learned far more than which characters there are."""
    assert reference < 0.25
    assert final_loss(state, dtype) <= 1.01 * reference


@pytest.mark.parametrize("state", ["bf16", "8bit"])
def test_second_moments_do_not_stall(state: StateFormat) -> None:
    """At beta2 = 0.999 one changes by a thousandth a step: less than half of what separates two numbers.

    Gradients fall to a tenth: after 3,000 steps second moments must be a hundredth and a rest of 5 %, and
    steps as large as in float32. Rounded to nearest, they would stay where they were.
    """
    ends = {}
    for kind in (state, "fp32"):
        one = nn.Parameter(torch.zeros(6400))
        optimizer = OffloadedAdamW([one], 1e-4, weight_decay=0, state=kind)
        signs = torch.arange(6400) % 3 - 1.0  # zeros too
        for step in range(3500):
            one.grad = signs * (1.0 if step < 500 else 0.1)
            if step == 3400:
                before = one.detach().clone()
            optimizer.step()
        ends[kind] = before - one.detach()
    moving = ends["fp32"] != 0
    ratio = ends[state][moving] / ends["fp32"][moving]
    assert ratio.mean().item() == pytest.approx(1, abs=0.05)
    assert ratio.std().item() < 0.15
    assert not ends[state][~moving].any()


@pytest.mark.parametrize("state", ["bf16", "8bit"])
def test_small_gradients_beside_large_ones_are_not_lost(state: StateFormat) -> None:
    """A value whose gradient is a hundredth of its neighbour's moves as far as that one does."""
    one = nn.Parameter(torch.zeros(640))
    optimizer = OffloadedAdamW([one], 1e-3, weight_decay=0, state=state)
    sizes = torch.where(torch.arange(640) % 2 == 0, 1.0, 0.01)
    for step in range(300):
        noise = torch.randn(640, generator=torch.Generator().manual_seed(step))
        one.grad = sizes * (1 + 0.3 * noise)
        optimizer.step()
    moved = one.detach().abs()
    assert (moved / 0.3 - 1).abs().max() < 0.2
