"""What ends a pod at home: every limit, every fault of the provider, and nothing that is not ours."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dure.errors import ResourceError
from dure.pods.decide import ROUND_S, Act
from dure.pods.emulator.faults import ALWAYS, Fault
from dure.pods.ledger import Entry, Ledger, PodState, Wanted
from dure.pods.life import PodLives
from dure.pods.money import Disks, Money
from dure.pods.provider import PodError
from tests.support.needs_root import needs_root
from tests.support.pod_accounts import Renting, renting

HOUR_S = 3600


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Renting]:
    with renting(tmp_path) as home:
        yield home


def is_paid(home: Renting, entry: Entry) -> bool:
    return home.pod(entry) in home.account.billing()


def test_a_pod_within_its_limits_is_left_alone(home: Renting) -> None:
    """An hour of rounds ends nothing, and the ledger counts what the provider bills."""
    entry = home.up()
    for _ in range(60):
        home.clock.forward(ROUND_S)
        assert home.guard().is_well
    assert is_paid(home, entry)
    billed, counted = home.account.billed(), home.again(entry).spent
    assert billed <= counted <= billed + Money.of("0.001")


def test_a_pod_ends_after_its_hours(home: Renting) -> None:
    """It runs until its deadline, and no round longer."""
    entry = home.up(home.order(hours=2))
    home.clock.forward(2 * HOUR_S - 1)
    home.guard()
    assert is_paid(home, entry)
    home.clock.forward(1)
    assert home.guard().outcomes[0].act is Act.TERMINATE
    assert not is_paid(home, entry)
    assert home.again(entry).state is PodState.GONE


def test_a_pod_never_costs_more_than_its_limit(home: Renting) -> None:
    """The round before the limit is exceeded ends it."""
    entry = home.up(home.order(hours=100, spend="1"))
    while is_paid(home, entry):
        home.clock.forward(ROUND_S)
        home.guard()
    assert Money.of("0.97") < home.account.billed() <= Money.of("1")


def test_a_stopped_pod_ends_when_its_disk_has_cost_the_limit(home: Renting) -> None:
    """The whole life counts, disks included."""
    entry = home.up(home.order(spend="1", disks=Disks(20, 100)))
    home.lives().stop(entry)
    home.clock.forward(30 * HOUR_S)
    home.guard()
    assert home.again(entry).state is PodState.LIVE
    for _ in range(3):
        home.clock.forward(24 * HOUR_S)
        home.guard()
    assert home.again(entry).state is PodState.GONE


def test_an_idle_pod_ends(home: Renting) -> None:
    """Neither GPU nor processors did anything for the time that was set."""
    entry = home.up(home.order(idle_s=20 * 60))
    pod = home.pod(entry)
    pod.gpu_percent = 80
    for _ in range(30):
        home.clock.forward(ROUND_S)
        home.guard()
    assert is_paid(home, entry)
    pod.gpu_percent = 0
    for _ in range(19):
        home.clock.forward(ROUND_S)
        home.guard()
    assert is_paid(home, entry)
    home.clock.forward(ROUND_S)
    home.guard()
    assert not is_paid(home, entry)
    assert "idle" in home.ledger.events(entry.label)[-2].text


def test_a_download_is_no_idleness(home: Renting) -> None:
    """A pod whose GPU rests while a processor works is not idle."""
    entry = home.up(home.order(idle_s=20 * 60))
    home.pod(entry).cpu_percent = 4
    for _ in range(60):
        home.clock.forward(ROUND_S)
        home.guard()
    assert is_paid(home, entry)


def test_a_home_that_slept_ends_what_is_overdue_at_once(home: Renting) -> None:
    """After a night without rounds, the first one ends it, and counts the night."""
    entry = home.up(home.order(hours=2))
    home.clock.forward(10 * HOUR_S)
    home.guard()
    assert not is_paid(home, entry)
    assert home.again(entry).spent >= home.account.billed()


def test_strangers_are_never_touched(home: Renting) -> None:
    """Pods of the account that the ledger has not made stay, whatever they are called and cost."""
    body = {"image": "x", "gpu": {"id": "NVIDIA H100 80GB HBM3"}, "disk": 20}
    home.account.create({**body, "name": "mine by hand"})
    home.account.create({**body, "name": "dure-theirs-0a1b2c"})
    home.clock.forward(1000 * HOUR_S)
    done = home.guard()
    assert [pod.name for pod in done.strangers] == ["dure-theirs-0a1b2c"]
    assert done.outcomes == []
    assert len(home.account.billing()) == 2
    assert not any(line.startswith(("DELETE", "POST", "PATCH")) for line in home.server.requests)


def test_a_deaf_provider_is_told_again_until_the_pod_is_gone(home: Renting) -> None:
    """An end that was accepted and did not happen never reads as an end."""
    entry = home.up(home.order(hours=1))
    home.clock.forward(HOUR_S)
    home.account.faults.set({Fault.DEAF_TERMINATE: 1})
    done = home.guard()
    assert not done.is_well
    assert "is still there: it costs money" in done.outcomes[0].problem
    assert home.again(entry).state is PodState.LIVE
    assert home.guard().is_well
    assert home.again(entry).state is PodState.GONE


def test_a_deaf_stop_is_repeated(home: Renting) -> None:
    """A stop that was accepted and did not happen is an error, and the guard repeats it."""
    entry = home.up()
    home.account.faults.set({Fault.DEAF_STOP: 1})
    with pytest.raises(PodError, match="still reads RUNNING: it costs"):
        home.lives().stop(entry)
    assert home.again(entry).status == "RUNNING"
    home.guard()
    assert home.again(entry).status == "EXITED"


def test_a_locked_pod_is_told_and_not_hidden(home: Renting) -> None:
    """It cannot be ended, which every round says; unlocked, it ends."""
    entry = home.up(home.order(hours=1))
    home.pod(entry).locked = True
    assert home.guard().outcomes[0].reason == "it is locked"
    home.clock.forward(HOUR_S)
    done = home.guard()
    assert "it is locked" in done.outcomes[0].problem
    home.pod(entry).locked = False
    assert home.guard().is_well
    assert home.again(entry).state is PodState.GONE


def test_one_pod_that_cannot_end_does_not_save_another(home: Renting) -> None:
    """A round goes on after a failure."""
    locked, other = home.up(home.order("one", hours=1)), home.up(home.order("two", hours=1))
    home.pod(locked).locked = True
    home.clock.forward(HOUR_S)
    assert not home.guard().is_well
    assert not is_paid(home, other)


def test_a_bug_with_one_pod_does_not_save_another(home: Renting) -> None:
    """Whatever happens while one is looked at, the others are looked at too."""
    home.up(home.order("one"))
    other = home.up(home.order("two", hours=1))

    def ask(entry: Entry) -> None:
        assert entry.name != "one", "a bug"

    home.clock.forward(HOUR_S)
    done = home.guard(ask)
    assert "a bug" in done.outcomes[0].problem
    assert not is_paid(home, other)


def test_a_listing_that_leaves_a_pod_out_does_not_bury_it(home: Renting) -> None:
    """Only a pod that is not found by its id is gone."""
    entry = home.up()
    home.account.faults.set({Fault.UNLISTED: 1})
    home.guard()
    assert home.again(entry).state is PodState.LIVE


def test_a_cut_network_is_an_error_and_changes_nothing(home: Renting) -> None:
    """Nothing is known then; the round after it ends what is overdue."""
    entry = home.up(home.order(hours=1))
    home.clock.forward(HOUR_S)
    home.account.faults.set({Fault.DOWN: ALWAYS})
    with pytest.raises(PodError):
        home.guard()
    assert home.again(entry).state is PodState.LIVE
    home.account.faults.clear()
    home.guard()
    assert not is_paid(home, entry)


def test_a_pod_that_somebody_else_started_gets_a_new_deadline(home: Renting) -> None:
    """A pod stopped by dure and started by hand lives, with a run of its own."""
    entry = home.up(home.order(hours=2))
    home.clock.forward(1.5 * HOUR_S)
    home.lives().stop(entry)
    home.clock.forward(5 * HOUR_S)
    home.account.act(home.pod(entry).id, "start")
    home.guard()
    assert is_paid(home, entry)
    assert home.again(entry).wanted is Wanted.UP
    home.clock.forward(2 * HOUR_S)
    home.guard()
    assert not is_paid(home, entry)


def test_a_pod_that_ran_while_nobody_looked_is_counted(home: Renting) -> None:
    """Started and stopped by hand while home slept: the provider's bill tells it."""
    entry = home.lives().stop(home.up())
    home.account.act(entry.pod_id, "start")
    home.clock.forward(HOUR_S)
    home.account.act(entry.pod_id, "stop")
    home.clock.forward(HOUR_S)
    home.guard()
    assert home.again(entry).spent >= home.account.billed() > Money.of("0.7")


def test_a_pod_that_is_ended_elsewhere_is_buried(home: Renting) -> None:
    """The ledger learns it from the provider."""
    entry = home.up()
    home.account.terminate(home.pod(entry).id)
    home.guard()
    assert home.again(entry).state is PodState.GONE


@needs_root
def test_a_full_disk_does_not_keep_a_pod(home: Renting, tmp_path: Path) -> None:
    """The ledger cannot be written, so no pod is made; one that is overdue ends all the same."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", small], check=True)
    try:
        home.ledger = Ledger(small)
        entry = home.up(home.order(hours=1))
        with (small / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
        home.clock.forward(HOUR_S)
        done = home.guard()
        assert not is_paid(home, entry)
        assert done.problems
        home.ledger.close()
        with pytest.raises(ResourceError, match="ledger"):
            Ledger(small).intend(home.order("next").entry("dure-next-000000", 0.0))
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_two_guards_at_once_do_no_harm(home: Renting) -> None:
    """Both end the same pod; the second finds it gone."""
    entry = home.up(home.order(hours=1))
    home.clock.forward(HOUR_S)
    late = PodLives(home.provider, home.ledger, home.wait, read_back_s=1)
    home.guard()
    assert late.end(entry, "late").state is PodState.GONE
