"""What `dure tune --plan` says before a run: memory by arithmetic, and the switch that makes a run fit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from dure.tune.estimate.estimates import MemoryEstimate
from dure.tune.estimate.memory import Shapes, memory_of
from dure.tune.estimate.plan import plan_of, switch_of
from dure.tune.loop.learner import blank_model
from dure.tune.loop.losses import Arith
from dure.tune.settings import Arithmetic, TuneMethod, TuneSettings
from tests.support.tiny_models import SHAPE, chats, write_lines, write_tiny_model

HERE = Arith(torch.device("cpu"), torch.float32)
SETTINGS = TuneSettings(
    base=Path("base"),
    data=("data",),
    method=TuneMethod.FULL,
    dtype=Arithmetic.FLOAT32,
    eval_split=0.0,
).checked()
SHAPES = Shapes(2, 128, 64)


def estimate(shapes: Shapes = SHAPES, **change: Any) -> MemoryEstimate:
    shape = {key: change.pop(key) for key in list(change) if key in SHAPE}
    config = AutoConfig.for_model("qwen3", **{**SHAPE, **shape})
    return memory_of(config, replace(SETTINGS, **change), HERE, shapes, 0)


def test_weights_and_state_are_those_of_the_model() -> None:
    config = AutoConfig.for_model("qwen3", **SHAPE)
    model = blank_model(config, SETTINGS, HERE)
    n = sum(p.numel() for p in model.parameters())
    found = estimate()
    assert (found.weights, found.learned, found.state_bytes) == (n, n, 8 * n)
    assert 4 * n <= found.weight_bytes <= 4 * n + 1024  # and tables of positions


def test_an_adapter_has_little_state() -> None:
    found = estimate(method=TuneMethod.LORA, rank=2)
    assert found.learned < found.weights / 10
    assert found.state_bytes == 8 * found.learned


def test_each_layer_keeps_as_much_as_the_last() -> None:
    passes = [estimate(num_hidden_layers=n).pass_bytes for n in (2, 4, 6)]
    assert passes[1] - passes[0] == pytest.approx(passes[2] - passes[1], rel=0.02)


def test_what_is_kept_grows_with_rows_and_shrinks_by_computing_again() -> None:
    one = estimate(Shapes(1, 128, 32), num_hidden_layers=8).pass_bytes
    four = estimate(Shapes(4, 128, 128), num_hidden_layers=8).pass_bytes
    again = estimate(Shapes(4, 128, 128), num_hidden_layers=8, checkpointing=True).pass_bytes
    assert 2 * one < four < 5 * one
    assert again < 0.6 * four


def test_experts_are_counted_in_bfloat16_too() -> None:
    """Their products of groups have weights in float32, which torch refuses for tensors without content."""
    config = AutoConfig.for_model(
        "qwen3_moe", **SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    )
    here = Arith(torch.device("cpu"), torch.bfloat16)
    found = memory_of(config, SETTINGS, here, SHAPES, 0)
    assert found.pass_bytes > 4 * found.learned


def test_gradients_stay_between_passes_of_a_step() -> None:
    found, several = estimate(), estimate(accumulate=3)
    gradients = 4 * found.learned
    assert found.pass_bytes < several.pass_bytes <= found.pass_bytes + gradients


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TuneSettings:
    folder = tmp_path_factory.mktemp("plan")
    data = write_lines(folder / "chats.jsonl", *chats(60))
    base = write_tiny_model(folder / "base", num_hidden_layers=2)
    return replace(SETTINGS, base=base, data=(str(data),), ctx=128, batch=2)


def test_a_plan_measures_once_and_keeps_it(settings: TuneSettings, tmp_path: Path) -> None:
    """Reading it is using it: `dure cache prune` deletes what was not used."""
    plan = plan_of(settings, tmp_path)
    assert plan.fits
    assert plan.seconds is not None
    assert plan.seconds > 0
    [kept] = tmp_path.iterdir()
    kept.write_text("[100.0, 0.0, 0.0]")
    os.utime(kept, (0, 0))
    again = plan_of(settings, tmp_path)
    assert kept.stat().st_mtime > 0
    assert again.seconds is not None
    assert 50 * plan.steps < again.seconds < 100 * plan.steps  # an epoch's last has fewer rows


def test_a_run_that_does_not_fit_is_not_measured(settings: TuneSettings, tmp_path: Path) -> None:
    plan = plan_of(settings, tmp_path, available_bytes=1)
    assert (plan.fits, plan.seconds, plan.switch) == (False, None, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows_at_once", "method", "switch"),
    [
        (1, TuneMethod.FULL, "--batch 1 --accumulate 8"),
        (0, TuneMethod.FULL, "--batch 1 --accumulate 8 --checkpointing --lora"),
        (0, TuneMethod.LORA, ""),
    ],
)
def test_the_switch_that_costs_least_is_named(
    rows_at_once: int, method: TuneMethod, switch: str
) -> None:
    """Of those that are enough: rows first, which cost nothing, then what is computed again."""

    def fits(one: TuneSettings) -> bool:
        return one.batch <= rows_at_once or (one.method is TuneMethod.LORA and method != one.method)

    settings = replace(SETTINGS, batch=4, accumulate=2, method=method)
    assert switch_of(settings, fits) == switch
    kept = switch if "--lora" not in switch else ""
    assert switch_of(settings, fits, keeps_method=True) == kept
