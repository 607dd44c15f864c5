"""How many guesses a step tries: from what steps take, and from how often guesses were right."""

from __future__ import annotations

import pytest

from dure.generate.speculative.budget import AcceptanceRates, DraftBudget, DraftOption, StepCosts
from dure.generate.speculative.prompt_lookup import NGRAM_LENGTHS


def drafting(costs: dict[int, float], most: int = 15) -> DraftBudget:
    """One that knows what steps of some sizes take."""
    made = DraftBudget(most)
    for n, seconds in costs.items():
        made.costs.observe(n, seconds)
    return made


def test_nothing_is_tried_before_a_step_was_seen() -> None:
    assert DraftBudget().plan(1, [DraftOption(8, 0.9)], 30) == [0]


@pytest.mark.parametrize(
    ("costs", "probability", "expected"),
    [
        ({1: 1.0, 8: 1.0}, 0.9, 7),  # more tokens for nothing: all that are known to be free
        ({1: 1.0, 8: 8.0}, 0.9, 0),  # each token costs as much as a step
        ({1: 1.0, 4: 1.6, 8: 8.0}, 0.95, 3),  # four at once are cheap, eight are not
        ({1: 1.0, 4: 1.6, 8: 8.0}, 0.1, 0),  # but not for guesses that are mostly wrong
    ],
)
def test_as_many_are_tried_as_give_most_tokens_a_second(
    costs: dict[int, float], probability: float, expected: int
) -> None:
    assert drafting(costs, most=7).plan(1, [DraftOption(7, probability)], 30) == [expected]


def test_a_larger_step_than_any_is_tried_where_guesses_are_good() -> None:
    """Otherwise it would never be known what it takes."""
    assert drafting({1: 1.0}).plan(1, [DraftOption(15, 0.95)], 30)[0] > 2
    assert drafting({1: 1.0}).plan(1, [DraftOption(15, 0.2)], 30) == [0]


def test_steps_are_no_longer_than_pays() -> None:
    """If nearly as many tokens a second come from shorter steps, texts come sooner with them."""
    costs = {1: 1.0, 4: 1.8, 8: 3.6, 16: 7.0}  # 16 at once would be 3 % better than 4
    assert drafting(costs).plan(1, [DraftOption(15, 1.0)], 30) == [3]


def test_the_best_guesses_of_several_answers_come_first() -> None:
    """And no more than there are, nor than a step holds, nor any that add next to nothing."""
    free = drafting({4: 1.0, 40: 1.0})
    good, poor, one = DraftOption(3, 0.99), DraftOption(3, 0.01), DraftOption(1, 0.95)
    assert free.plan(4, [good, DraftOption(3, 0.9), one], 30) == [3, 3, 1]
    assert free.plan(4, [good, DraftOption(3, 0.9), one], 4) == [3, 0, 1]
    assert free.plan(4, [good, poor, one], 30) == [3, 0, 1]
    assert free.plan(4, [], 30) == []


def test_asking_a_model_takes_its_time() -> None:
    """Good guesses are not worth asking for where that takes as long as a step; cheap ones are."""
    costs = {1: 1.0, 8: 1.0}
    assert drafting(costs, most=7).plan(1, [DraftOption(7, 0.9, round_s=1.0)], 30) == [0]
    assert drafting(costs, most=7).plan(1, [DraftOption(7, 0.9, round_s=0.01)], 30) == [7]
    assert 0 < drafting(costs, most=7).plan(1, [DraftOption(7, 0.8, round_s=0.2)], 30)[0] < 7


def test_what_is_right_is_learnt_soon_and_by_length() -> None:
    long, short = NGRAM_LENGTHS
    acceptance = AcceptanceRates()
    before = acceptance.rate(long)
    for _ in range(20):
        acceptance.observe(long, accepted=True)
        acceptance.observe(short, accepted=False)
    assert acceptance.rate(long) > 0.9 > before
    assert acceptance.rate(short) < 0.1
    for _ in range(40):
        acceptance.observe(long, accepted=False)
    assert acceptance.rate(long) < 0.2


def test_costs_between_and_beyond_those_seen() -> None:
    costs = StepCosts()
    with pytest.raises(KeyError):
        costs.seconds(1)
    costs.observe(2, 1.0)
    assert costs.seconds(1) == costs.seconds(2) == 1.0
    assert costs.seconds(8) == 2.0
    costs.observe(6, 3.0)
    assert costs.seconds(4) == 2.0
    assert costs.seconds(12) == 6.0  # as steeply as between the largest two, but never more


def test_costs_beyond_those_seen_grow_at_least_with_the_root() -> None:
    """Two steps that took the same say little of one that is much larger."""
    costs = StepCosts()
    costs.observe(2, 1.0)
    costs.observe(4, 1.0)
    assert costs.seconds(16) == 2.0


def test_one_step_that_was_held_up_says_little() -> None:
    costs = StepCosts()
    costs.observe(1, 1.0)
    costs.observe(1, 1000.0)
    assert costs.seconds(1) < 1.5
