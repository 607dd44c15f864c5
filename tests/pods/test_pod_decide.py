"""The rules by which a pod ends, as a table, and what holds for every pod whatever it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dure.errors import UsageError
from dure.pods.decide import (
    ROUND_S,
    Act,
    deadline_of,
    is_active,
    most_it_costs,
    what_to_do,
)
from dure.pods.ledger import Entry, PodLimits, PodState, Wanted, accrued
from dure.pods.money import HOUR_S, NOTHING, Bill, Disks, Money, money_of
from dure.pods.provider import Pod, PodStatus

BEGAN = 1_800_000_000.0
PRICE = Money.of("0.70")
LIMITS = PodLimits(max_seconds=8 * HOUR_S, max_spend=Money.of("10"), idle_s=1200, hourly=PRICE)
ENTRY = Entry(
    name="w", label="dure-w-00aa11", template="serve", gpu="4090", gpus=1, cloud="SECURE",
    disks=Disks(), volume_path="/workspace", server_port=8080, limits=LIMITS, made_at=BEGAN,
    state=PodState.LIVE, pod_id="abc", status="RUNNING", running_since=BEGAN, seen_at=BEGAN,
    hourly=PRICE, active_at=BEGAN,
)  # fmt: skip
POD = Pod("abc", "dure-w-00aa11", PodStatus.RUNNING, PRICE)


@pytest.mark.parametrize(
    ("pod", "entry", "after_s", "act"),
    [
        ({}, {}, 0, Act.KEEP),
        ({}, {}, 1199, Act.KEEP),
        ({}, {}, 1200, Act.TERMINATE),  # idle
        ({}, {"active_at": BEGAN + 1100}, 1200, Act.KEEP),
        ({}, {"limits": replace(LIMITS, idle_s=0)}, 8 * HOUR_S - 1, Act.KEEP),
        ({}, {"limits": replace(LIMITS, idle_s=0)}, 8 * HOUR_S, Act.TERMINATE),  # hours
        ({}, {"spent": Money.of("9.98")}, 60, Act.KEEP),
        ({}, {"spent": Money.of("9.99")}, 60, Act.TERMINATE),  # the next round would be too much
        ({"hourly": Money.of("0.71")}, {}, 60, Act.KEEP),
        ({"hourly": Money.of("0.72")}, {}, 60, Act.TERMINATE),  # dearer than was shown
        ({"status": PodStatus.ERROR}, {}, 60, Act.KEEP),
        ({"status": PodStatus.UNKNOWN}, {}, 1200, Act.TERMINATE),  # counts as running
        ({"status": PodStatus.TERMINATED}, {}, 60, Act.CONFIRM),
        ({}, {"wanted": Wanted.GONE}, 0, Act.TERMINATE),
        ({"status": PodStatus.EXITED}, {"wanted": Wanted.GONE}, 0, Act.TERMINATE),
        ({}, {"wanted": Wanted.STOPPED}, 0, Act.STOP),
        ({"status": PodStatus.EXITED}, {"wanted": Wanted.STOPPED}, 99 * HOUR_S, Act.KEEP),
        ({"status": PodStatus.EXITED}, {"spent": Money.of("10")}, 0, Act.TERMINATE),
        (None, {}, 60, Act.CONFIRM),
        (None, {"state": PodState.INTENDED}, 60, Act.KEEP),
        (None, {"state": PodState.INTENDED}, HOUR_S, Act.FORGET),
    ],
)
def test_the_table(
    pod: dict[str, Any] | None, entry: dict[str, Any], after_s: float, act: Act
) -> None:
    """Each rule, just before and just after it applies."""
    seen = None if pod is None else Pod(**{**POD.__dict__, **pod})
    assert what_to_do(seen, replace(ENTRY, **entry), BEGAN + after_s).act is act


moneys = st.integers(0, 20_000_000).map(Money)
pods = st.builds(
    Pod,
    st.just("abc"),
    st.just(ENTRY.label),
    st.sampled_from(PodStatus),
    moneys,
    locked=st.booleans(),
)
entries = st.builds(
    lambda wanted, spent, running, active, idle: replace(
        ENTRY,
        wanted=wanted,
        spent=spent,
        running_since=BEGAN - running,
        active_at=BEGAN - active,
        limits=replace(LIMITS, idle_s=idle),
    ),
    st.sampled_from(Wanted),
    moneys,
    st.integers(0, 100_000),
    st.integers(0, 100_000),
    st.sampled_from([0, 60, 1200]),
)


@given(pods, entries, st.integers(0, 100_000))
def test_no_pod_lives_past_its_deadline(pod: Pod, entry: Entry, after_s: int) -> None:
    """Whatever else is true: past its time or money, a pod is terminated or gone."""
    now = BEGAN + after_s
    act = what_to_do(pod, entry, now).act
    is_late = not pod.status.is_over and now >= entry.running_since + entry.limits.max_seconds
    if is_late or entry.spent >= entry.limits.max_spend:
        assert act in {Act.TERMINATE, Act.CONFIRM}


@given(pods, entries, st.integers(0, 100_000), st.integers(0, 100_000))
def test_an_end_is_final(pod: Pod, entry: Entry, one: int, more: int) -> None:
    """What must end now must also end later."""
    if what_to_do(pod, entry, BEGAN + one).act is Act.TERMINATE:
        later = what_to_do(pod, accrued(entry, pod.hourly, BEGAN + one + more), BEGAN + one + more)
        assert later.act is Act.TERMINATE


@given(st.lists(st.tuples(moneys, st.integers(0, 5000)), max_size=20))
def test_the_ledger_never_counts_less_than_the_bill(steps: list[tuple[Money, int]]) -> None:
    """Prices may change between two looks: the dearer one counts for the whole time."""
    entry, at, bill = ENTRY, BEGAN, 0
    for hourly, seconds in steps:
        bill += entry.hourly.micros * seconds
        at += seconds
        entry = accrued(entry, hourly, at)
    assert entry.spent.micros * HOUR_S >= bill


@given(entries, moneys)
def test_a_promise_is_kept(entry: Entry, spent: Money) -> None:
    """The most that is told is no more than the limit, and reached at the deadline told."""
    entry = replace(entry, spent=min(spent, entry.limits.max_spend))
    assert most_it_costs(entry) <= entry.limits.max_spend
    until_s = deadline_of(entry) - entry.seen_at
    assert entry.spent + entry.hourly.over(until_s) <= most_it_costs(entry) + entry.hourly.over(
        ROUND_S
    )


def test_what_is_not_told_counts_as_work() -> None:
    """A pod is idle only if both of its figures say so."""
    for gpu, cpu, works in ((0, 0, False), (5, 0, True), (0, 2, True), (None, 0, True)):
        assert (
            is_active(Pod("a", "b", PodStatus.RUNNING, PRICE, gpu_percent=gpu, cpu_percent=cpu))
            is works
        )


# ---------------------------------------------------------------- money


def test_money_is_exact_and_rounds_up() -> None:
    """No float ever adds up; a limit that is told is never too low."""
    assert Money.of(0.1) + Money.of("0.2") == Money.of("0.3")
    assert str(Money.of("1.731")) == "$1.74"
    assert Money.of("0.69").over(HOUR_S) == Money.of("0.69")
    assert Money(1).over(1) == Money(1)
    assert Money.of("1").lasts_s(Money.of("0.5")) == 2 * HOUR_S
    assert Money.of("1").lasts_s(NOTHING) is None


@given(moneys, st.integers(1, 20_000_000), st.integers(0, 100_000))
def test_money_lasts_no_longer_than_it_pays(amount: Money, price: int, more: int) -> None:
    """Running as long as the money lasts costs no more than that."""
    seconds = amount.lasts_s(Money(price))
    assert seconds is not None
    assert price * seconds <= amount.micros * HOUR_S


@pytest.mark.parametrize("dollars", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_what_is_no_money_is_refused(dollars: float) -> None:
    """The option and the amount are named."""
    with pytest.raises(UsageError, match=r"--max-spend .*give dollars"):
        money_of("--max-spend", dollars)


def test_the_bill_of_the_documentation() -> None:
    """100 GB: $10 a month running, $20 stopped; a network volume of 100 GB $7."""
    bill = Bill(Money.of("0.69"), Disks(0, 100, 100), 3 * HOUR_S, Money.of("100"))
    assert bill.disks.stopped_month == Money.of("20")
    assert bill.disks.network_month == Money.of("7")
    assert str(bill.hourly) == "$0.71"
    assert str(bill.overnight) == "$7.04"
    assert str(bill.at_most) == "$2.12"
