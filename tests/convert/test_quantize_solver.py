"""The choice of options: as good as the best of all combinations, and within the limits."""

from __future__ import annotations

import ctypes
import itertools
import math
import random

import pytest

from dure.convert.quantize.solver import Option, TooTightError, solve

Items = dict[str, list[Option]]


def random_items(seed: int, n_items: int, n_limits: int) -> Items:
    chance = random.Random(seed)
    return {
        f"item {i}": [
            Option(
                f"{i} {j}", chance.random(), tuple(chance.randrange(1, 50) for _ in range(n_limits))
            )
            for j in range(chance.randrange(1, 5))
        ]
        for i in range(n_items)
    }


def best_of_all(items: Items, limits: tuple[float, ...]) -> float:
    costs = [
        sum(option.cost for option in chosen)
        for chosen in itertools.product(*items.values())
        if all(sum(o.takes[i] for o in chosen) <= limit for i, limit in enumerate(limits))
    ]
    return min(costs, default=math.inf)


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_is_the_best_of_all_combinations(seed: int) -> None:
    """Six items, one limit or two, loose and tight."""
    n_limits = 1 + seed % 2
    items = random_items(seed, 6, n_limits)
    limits = tuple(float(60 + 15 * (seed % 5)) for _ in range(n_limits))
    best = best_of_all(items, limits)
    if math.isinf(best):
        with pytest.raises(TooTightError):
            solve(items, limits)
        return
    found = solve(items, limits)
    assert found.cost == pytest.approx(best, rel=1e-5)
    assert all(found.taken(i) <= limit for i, limit in enumerate(limits))
    assert list(found.chosen) == list(items)


def test_items_that_are_alike_may_differ() -> None:
    """Only one of three alike fits in its better form."""
    options = [Option("good", 0.0, (10.0,)), Option("small", 1.0, (1.0,))]
    found = solve(dict.fromkeys("abc", options), (12.0,))
    assert sorted(option.name for option in found.chosen.values()) == ["good", "small", "small"]


def test_a_limit_is_kept_to_the_byte() -> None:
    """Of 10 GB, one byte too many is too many, though the solver works in floating point."""
    n = 5_000_000_000
    options = [Option("good", 0.0, (float(n),)), Option("small", 1.0, (float(n - 1),))]
    found = solve({"a": options, "b": options}, (2.0 * n - 1,))
    assert found.taken(0) <= 2 * n - 1


def test_a_limit_that_nothing_meets_is_told_with_the_least() -> None:
    with pytest.raises(TooTightError) as caught:
        solve(
            {"a": [Option("x", 0.0, (5.0, 1.0))], "b": [Option("y", 0.0, (7.0, 1.0))]}, (11.0, 9.0)
        )
    assert (caught.value.limit, caught.value.least) == (0, 12.0)


def test_no_limit_takes_the_least_cost() -> None:
    found = solve({"a": [Option("x", 1.0, (5.0,)), Option("y", 0.5, (9.0,))]}, (math.inf,))
    assert found.chosen["a"].name == "y"


def test_many_layers_are_solved() -> None:
    """48 layers of 7 tensors and 15 types, as a large model has."""
    items = random_items(1, 48 * 7, 1)
    least = sum(min(o.takes[0] for o in options) for options in items.values())
    found = solve(items, (least * 1.5,))
    assert found.gap < 1e-3
    assert found.taken(0) <= least * 1.5


@pytest.mark.parametrize("seed", [12, 13, 29])
def test_nothing_is_written_to_the_standard_output(
    seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """For these problems the solver writes a line there, which would stand in a command's JSON."""
    chance, items = random.Random(seed), {}
    for i in range(28):
        size, weight = 4096 * chance.randrange(1, 60), chance.uniform(0.1, 9)
        items[f"{i}"] = [
            Option(
                f"{bits}",
                weight * chance.uniform(0.8, 1.2) * 2 ** (-2 * bits),
                (round(size * bits / 8),),
            )
            for bits in (2.1, 2.6, 3.1, 3.4, 4.25, 4.5, 5.5, 6.6, 8.5)
        ]
    solve(items, (1.01 * sum(options[3].takes[0] for options in items.values()),))
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""
