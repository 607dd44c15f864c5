"""How far the planner can be believed: its errors on published speeds that no figure was fitted to."""

from __future__ import annotations

import statistics

from dure.plan.performance import Interval
from dure.plan.published import error, percentile, predicted, published_speeds

LEFT_OUT = [row for row in published_speeds() if row.is_left_out]


def test_every_third_row_is_left_out() -> None:
    """And there are clusters, single nodes, mixtures and prompts among them."""
    assert [row.id for row in published_speeds()][2::3] == [row.id for row in LEFT_OUT]
    assert {row.n_nodes for row in LEFT_OUT} == {1, 2, 4, 8}
    assert {row.engine for row in LEFT_OUT} > {"distributed-llama", "llama.cpp"}


def test_generation_speed_of_rows_left_out_is_predicted_within_8_percent_in_the_median() -> None:
    """And within 20 % in nine of ten."""
    errors = [error(predicted(row).generation.per_s, row.generation_per_s) for row in LEFT_OUT]
    assert len(errors) == 10
    assert statistics.median(map(abs, errors)) <= 0.08
    assert percentile(errors, 0.9) <= 0.20


def test_prompt_speed_of_rows_left_out_is_predicted_within_15_percent_in_the_median() -> None:
    """Of those of which it was published."""
    pairs = [(predicted(row).prompt.per_s, row.prompt_per_s) for row in LEFT_OUT]
    errors = [error(value, published) for value, published in pairs if published]
    assert len(errors) == 2
    assert statistics.median(map(abs, errors)) <= 0.15


def test_four_of_five_published_speeds_lie_in_their_interval() -> None:
    """Of rows left out; an interval that never misses would say nothing."""

    def has(interval: Interval, value: float) -> bool:
        return interval.low <= value <= interval.high

    inside = [has(predicted(row).generation_per_s, row.generation_per_s) for row in LEFT_OUT]
    assert 0.8 <= statistics.mean(inside) <= 1.0
    rows = [(predicted(row), row) for row in published_speeds()]
    assert all(found.generation_per_s.high < 2 * row.generation_per_s for found, row in rows)
