"""Who gets which part of a model: shares follow speed, memory limits them, and dear machines stay out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.errors import ResourceError, UsageError
from dure.plan.load import ModelLoad
from dure.plan.placement import (
    Candidate,
    PlacementOptions,
    fixed_shares,
    measured_placement,
    observed_speeds,
    place,
    shares_of,
    token_s,
)

GB = 1e9
LOAD = ModelLoad(weights_bytes=4 * GB, kv_bytes=0.5 * GB, n_allreduces=64, allreduce_bytes=4352)
ROOT = Candidate("root", 10 * GB, 16 * GB)


def node(name: str, speed_gb: float = 10, free_gb: float = 16, trip_us: float = 100) -> Candidate:
    return Candidate(name, speed_gb * GB, free_gb * GB, trip_us * 1e-6, 117e6)


def test_shares_follow_speed() -> None:
    """Three machines of 10, 5 and 5 GB/s: a half and two quarters, and all are done at once."""
    placement = place([ROOT, node("a", 5), node("b", 5)], LOAD)
    assert dict(placement.shares) == pytest.approx({"root": 0.5, "a": 0.25, "b": 0.25})
    compute = 0.5 * 4 * GB / (10 * GB)
    assert placement.token_s == pytest.approx(compute + 64 * (50e-6 + 2 * 4352 / 117e6))


def test_memory_limits_a_share_and_the_others_take_the_rest_by_speed() -> None:
    small = node("small", 20, free_gb=0.9)
    shares = shares_of([ROOT, small, node("b", 30)], LOAD)
    assert shares["small"] == pytest.approx(0.2)
    assert shares["b"] == pytest.approx(3 * shares["root"])
    assert sum(shares.values()) == pytest.approx(1)


def test_a_machine_that_costs_more_than_it_saves_is_left_out_and_it_is_said_why() -> None:
    """A board of a tenth of the speed behind a slow link."""
    placement = place([ROOT, node("a"), node("slow", 0.5, trip_us=3000)], LOAD)
    assert set(placement.shares) == {"root", "a"}
    assert "ms with it, and takes" in placement.left_out["slow"]


def test_a_small_model_stays_on_the_root() -> None:
    placement = place([ROOT, node("a"), node("b")], ModelLoad(4e6, 1e6, 8, 272))
    assert dict(placement.shares) == {"root": 1.0}
    assert set(placement.left_out) == {"a", "b"}


def test_a_slow_machine_stays_where_its_memory_is_needed() -> None:
    """What would be faster without it does not fit without it."""
    machines = [
        Candidate("root", 10 * GB, 2.5 * GB),
        node("slow", 0.5, free_gb=2.5, trip_us=3000),
    ]
    placement = place(machines, LOAD)
    assert set(placement.shares) == {"root", "slow"}


def test_too_little_memory_is_told_with_both_numbers() -> None:
    with pytest.raises(ResourceError, match=r"takes 4\.5 GB.*together have 3\.0 GB free"):
        place([Candidate("root", GB, 2 * GB), node("a", free_gb=1)], LOAD)


@given(
    speeds=st.lists(st.floats(0.1, 100), min_size=1, max_size=8),
    frees=st.lists(st.floats(0, 20), min_size=8, max_size=8),
    trips=st.lists(st.floats(10, 10_000), min_size=8, max_size=8),
)
def test_whatever_the_machines(speeds: list[float], frees: list[float], trips: list[float]) -> None:
    """Shares add up, fit, are positive; no machine that takes part would better be left out."""
    machines = [
        node(f"m{i}", speed, free, trip)
        for i, (speed, free, trip) in enumerate(zip(speeds, frees, trips, strict=False))
    ]
    try:
        placement = place(machines, LOAD)
    except ResourceError:
        assert sum(frees[: len(speeds)]) <= 4.5 + 1e-6
        return
    assert sum(placement.shares.values()) == pytest.approx(1)
    assert "m0" in placement.shares
    used = [m for m in machines if m.name in placement.shares]
    for m in used:
        assert 0 <= placement.shares[m.name] <= m.free_bytes / (4.5 * GB) + 1e-9
    assert placement.token_s == pytest.approx(token_s(used, LOAD))
    assert placement.token_s <= token_s(machines, LOAD)
    for m in used[1:]:
        assert placement.token_s <= token_s([one for one in used if one is not m], LOAD)


def test_a_machine_that_computes_for_others_too_gets_less() -> None:
    """Of two equal nodes the one that another job uses gets half."""
    machines = [ROOT, node("a"), replace(node("b"), n_others=1)]
    shares = shares_of(machines, LOAD)
    assert shares["b"] == pytest.approx(shares["a"] / 2)


def test_speeds_are_those_of_the_work_where_ranks_wait_for_each_other() -> None:
    """Two machines that were thought to be alike; one needs 50 % longer, so it gets 40 %."""
    shown = observed_speeds([10 * GB, 10 * GB], [2 * GB, 2 * GB], [0.2, 0.3])
    assert shown is not None
    assert shown == pytest.approx([12 * GB, 8 * GB])
    root, other = shown
    machines = [replace(ROOT, alone_bytes_per_s=root), replace(node("a"), alone_bytes_per_s=other)]
    shares = shares_of(machines, LOAD)
    assert shares == pytest.approx({"root": 0.6, "a": 0.4})
    again = [0.2 * shares["root"] / 0.5, 0.3 * shares["a"] / 0.5]
    assert observed_speeds(shown, [4 * GB * shares["root"], 4 * GB * shares["a"]], again) is None


def test_a_small_imbalance_is_not_worth_other_shards() -> None:
    assert observed_speeds([10 * GB] * 2, [2 * GB] * 2, [0.2, 0.215]) is None


NAMES = ["root", "a", "b"]


def test_a_users_shares_need_no_speeds() -> None:
    """One for every machine, in their order; another number of them is refused by name."""
    options = PlacementOptions(shares=(3, 2, 1.5))
    assert fixed_shares(NAMES, options) == {"root": 3, "a": 2, "b": 1.5}
    with pytest.raises(UsageError, match=r"--shares 3,2,1\.5 is for 3 machines.*order: root, a$"):
        fixed_shares(NAMES[:2], options)


def test_ranks_that_are_not_as_many_as_machines_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--ranks 2: the cluster has 3 machines, with a rank on"):
        fixed_shares(NAMES, PlacementOptions(n_ranks=2))
    assert fixed_shares(NAMES, PlacementOptions(n_ranks=3)) is None


def test_a_cluster_that_lost_a_machine_is_divided_anew() -> None:
    """What the user said was for all of them; the root alone holds everything."""
    options = PlacementOptions(n_ranks=3, shares=(3, 2, 1))
    assert fixed_shares(NAMES[:2], options, is_reduced=True) is None
    assert fixed_shares(NAMES[:1], options, is_reduced=True) == {"root": 1.0}


def test_a_root_without_nodes_holds_everything() -> None:
    assert fixed_shares(["root"], PlacementOptions()) == {"root": 1.0}


@pytest.mark.parametrize("options", [PlacementOptions(n_ranks=3), PlacementOptions(named=True)])
def test_machines_that_the_user_insists_on_take_part_whatever_they_cost(
    options: PlacementOptions,
) -> None:
    machines = [ROOT, node("a"), node("slow", 0.5, trip_us=3000)]
    placement = measured_placement(machines, LOAD, options)
    assert placement.shares == shares_of(machines, LOAD)
    assert placement.left_out == {}
    free = measured_placement(machines, LOAD, PlacementOptions())
    assert set(free.left_out) == {"slow"}
    assert free == place(machines, LOAD)
