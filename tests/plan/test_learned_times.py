"""What runs of a model teach about its types: each type's real time, and the rest of a token."""

from __future__ import annotations

import numpy as np
import pytest

from dure.plan.learned_times import LearnedTimes, ShownRun, learned_from

TYPES = ("Q3_K", "Q4_0", "Q6_K")


def seconds(learned: LearnedTimes, expected_s: dict[str, float]) -> float:
    """Return the time of a token that was learned."""
    each = (learned.factors.get(name, 1.0) * one for name, one in expected_s.items())
    return learned.rest_s + sum(each)


def test_before_any_run_nothing_changes() -> None:
    found = learned_from([], 0.003)
    assert found.rest_s == 0.003
    assert found.speeds({"Q4_0": 1e10}) == {"Q4_0": 1e10}


def test_one_run_is_explained_mostly_by_the_rest() -> None:
    """What a type takes is known to some percent, what a token takes besides is not known at all."""
    run = ShownRun({"Q4_0": 0.010}, 0.014)
    found = learned_from([run])
    assert seconds(found, run.expected_s) == pytest.approx(0.014, rel=0.01)
    assert 0.0025 < found.rest_s < 0.004
    assert 1 < found.factors["Q4_0"] < 1.15


def test_many_runs_find_each_types_own_time() -> None:
    """Factors within 5 %, the rest within a tenth, from runs that differ by 1 %."""
    random = np.random.default_rng(5)
    factors, rest_s = {"Q3_K": 1.4, "Q4_0": 0.9, "Q6_K": 1.1}, 0.004
    runs = []
    for _ in range(20):
        expected_s = {name: float(random.uniform(0, 0.01)) for name in TYPES}
        true_s = rest_s + sum(factors[name] * one for name, one in expected_s.items())
        runs.append(ShownRun(expected_s, true_s * float(random.normal(1, 0.01))))
    found = learned_from(runs)
    assert found.factors == pytest.approx(factors, rel=0.05)
    assert found.rest_s == pytest.approx(rest_s, rel=0.1)
    assert found.speeds({"Q3_K": 1.4e9})["Q3_K"] == pytest.approx(1e9, rel=0.05)


def test_a_token_is_never_quicker_than_what_it_reads() -> None:
    """A run that was quicker than expected makes types quicker, and the rest nothing, not less."""
    run = ShownRun({"Q4_0": 0.010}, 0.008)
    found = learned_from([run])
    assert found.rest_s == 0
    assert found.factors["Q4_0"] == pytest.approx(0.8, rel=0.02)
