"""What to buy: the cheapest that is fast enough comes first, and nothing beyond the budget is named."""

from __future__ import annotations

import math
from functools import cache

import pytest

from dure.errors import UsageError
from dure.plan.buying import Market, ModelOf, best_models, options_of
from dure.plan.machines import device_named
from dure.plan.outline import outline_named, outlined_model
from dure.plan.outlook import Task, outlook_of
from dure.plan.setups import counted, setup_of

TASK = Task()
PRICE = device_named("pi5-8gb").price
BOARD = PRICE.value if PRICE else 0.0  # a later catalogue has another price


def model_of(name: str) -> ModelOf:
    outline = outline_named(name)
    assert outline is not None
    return cache(lambda quantization: outlined_model(name, outline, quantization))


def market(have: dict[str, int], budget: float, speed: float, hours: float = 60) -> Market:
    return Market(have, budget, speed, hours, kwh_price=0.3)


def test_what_meets_the_wish_comes_first_by_the_cost_of_a_year() -> None:
    """And nothing that must be bought costs more than the budget."""
    options = options_of("qwen3:4b", model_of("qwen3:4b"), market({}, 650, 8), TASK)
    meeting = [one for one in options if one.meets]
    assert options[: len(meeting)] == meeting
    assert [one.year for one in meeting] == sorted(one.year for one in meeting)
    assert all(one.tokens_per_s >= 8 for one in meeting)
    assert all(one.price <= 650 for one in options)
    kinds = {device.kind for one in options for device in one.outlook.setup.devices}
    assert len(kinds) >= 3


def test_what_one_has_is_used_and_costs_nothing() -> None:
    """Two boards that are there need one more board, not three; alone they are too slow."""
    found = market({"pi5-8gb": 2}, 300, 10)
    options = options_of("qwen3:30b-a3b", model_of("qwen3:30b-a3b"), found, TASK)
    best = options[0]
    assert best.outlook.setup.names == ("pi5-8gb",) * 3
    assert (best.buy, best.price) == ({"pi5-8gb": 1}, BOARD)
    own = next(one for one in options if not one.buy)
    assert not own.meets
    assert own.price == 0


def test_renting_pays_for_few_hours_and_buying_for_many() -> None:
    """The break-even comes sooner the more it is used; what is rented, or too slow, has none."""
    months = []
    for hours in (10, 400):
        options = options_of("qwen3:8b", model_of("qwen3:8b"), market({}, 2000, 10, hours), TASK)
        rented = min(
            (one for one in options if one.meets and one.outlook.setup.hourly),
            key=lambda one: one.month,
        )
        bought = next(one for one in options if one.meets and not one.outlook.setup.hourly)
        even = bought.break_even_months(rented)
        assert even is not None
        assert even * (rented.month - bought.month) == pytest.approx(bought.price)
        assert rented.break_even_months(rented) is None
        months.append(even)
    assert months[1] < months[0] < math.inf


def test_models_for_what_one_has_run_there_the_most_able_first() -> None:
    """Each on the cheapest setup where it is fast enough; without money nothing is bought."""
    models = {name: model_of(name) for name in ("qwen3:0.6b", "qwen3:8b", "qwen3:30b-a3b")}
    rich = best_models(models, market({"pi5-8gb": 2}, 200, 5), TASK)
    assert [one.model for one in rich] == ["qwen3:30b-a3b", "qwen3:8b", "qwen3:0.6b"]
    assert rich[0].price <= 200
    assert not rich[-1].buy
    poor = best_models(models, market({"pi5-8gb": 2}, 0, 5), TASK)
    assert all(not one.buy for one in poor)
    assert {one.model for one in poor} < {one.model for one in rich}


def test_a_setup_has_a_price_and_a_switch_for_more_than_one() -> None:
    """Eight nodes fit on one switch; a ninth needs a second."""
    prices = [setup_of({"pi5-8gb": n}).price for n in (1, 2, 8, 9)]
    assert prices == [BOARD, 2 * BOARD + 20, 8 * BOARD + 20, 9 * BOARD + 40]
    assert setup_of({"pi5-8gb": 4}).title == "4 x Raspberry Pi 5, 8 GB"


def test_setups_are_written_as_names_with_numbers() -> None:
    """What cannot be read is refused, and so is what cannot work together."""
    assert counted("--nodes", "pi5-8gb:2, n150,pi5-8gb") == {"pi5-8gb": 3, "n150": 1}
    for text in ("", "pi5-8gb:0", "pi5-8gb:65", "pi6", "pi5-8gb;4"):
        with pytest.raises(UsageError):
            counted("--nodes", text)
    with pytest.raises(UsageError, match="works on one machine alone"):
        setup_of({"pi5-8gb": 1, "rtx4090": 1})


def test_shares_of_unlike_machines_follow_speed_within_memory() -> None:
    """A slow board of much memory does not get half."""
    model = model_of("llama3.1:8b")("Q4_0")
    found = outlook_of(model, setup_of({"n150": 1, "pi4-8gb": 1}), TASK)
    fast, slow = found.parts
    assert fast.share > 2 * slow.share
    assert found.runs
