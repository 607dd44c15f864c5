"""Intervals hold what they promise, and few windows make them wider, not wrong."""

from __future__ import annotations

import numpy as np
import pytest

from dure.evaluate.statistics import _student, bootstrapped, mean_of_windows, proportion


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.1824), (7, 2.3646), (30, 2.0423)])
def test_students_quantile_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    """The expansion gives what tables print, from three degrees of freedom on."""
    assert _student(freedom) == pytest.approx(quantile, rel=2e-3)


@pytest.mark.parametrize("n_windows", [6, 20])
def test_the_interval_holds_the_true_mean_in_95_of_100_measurements(n_windows: int) -> None:
    """Tokens of a window depend on each other, and the distribution is skewed, as divergences are."""
    random = np.random.default_rng(1)
    n_trials = 300
    held = 0
    for _ in range(n_trials):
        level = random.gamma(4.0, 0.25, (n_windows, 1))  # of a window; its mean is 1
        found = mean_of_windows(level * random.gamma(2.0, 0.5, (n_windows, 40)))
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / n_trials <= 0.985


def test_a_quantile_lies_within_its_interval() -> None:
    """Any statistic of windows has an interval, the same each time."""
    values = np.random.default_rng(2).exponential(1.0, (12, 100))
    found = bootstrapped(values, lambda drawn: float(np.quantile(drawn, 0.99)))
    assert found.low < found.value < found.high
    assert found.value == float(np.quantile(values, 0.99))
    assert found == bootstrapped(values, lambda drawn: float(np.quantile(drawn, 0.99)))


def test_one_window_has_no_interval() -> None:
    """A single window says nothing about others."""
    found = mean_of_windows(np.ones((1, 5)))
    assert found.value == 1.0
    assert np.isnan([found.low, found.high]).all()


def test_a_proportion_has_wilsons_interval() -> None:
    """Also if all cases are alike: 10 of 10 is no proof of 100 of 100."""
    some, all_ = proportion(8, 10), proportion(10, 10)
    assert (some.low, some.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (all_.value, all_.high) == (1.0, 1.0)
    assert all_.low == pytest.approx(0.7225, abs=1e-4)
