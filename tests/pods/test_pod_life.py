"""A pod's life at a faulty provider: made once, ended at once if it is dearer, and always read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.errors import UsageError
from dure.pods.ceilings import Ceilings, check_ceilings
from dure.pods.emulator.faults import ALWAYS, Fault
from dure.pods.launch import launch
from dure.pods.ledger import Entry, Ledger, PodState, Wanted
from dure.pods.money import NOTHING, Bill, Disks, Money
from dure.pods.provider import ConflictError, LostAnswerError, PodError
from dure.pods.templates import MAX_S
from tests.support.pod_accounts import PUBLIC_KEY, Renting, renting

HOUR_S = 3600


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Renting]:
    with renting(tmp_path) as home:
        yield home


def creations(home: Renting) -> int:
    return home.server.requests.count("POST /v2/pods")


# ---------------------------------------------------------------- one pod, never two


def test_a_lost_answer_makes_no_second_pod(home: Renting) -> None:
    """The pod is found by its name, and asked for once."""
    home.account.faults.set({Fault.LOST_CREATE: 1})
    entry = home.up()
    assert entry.state is PodState.LIVE
    assert entry.pod_id in home.account.pods
    assert creations(home) == len(home.account.pods) == 1


def test_a_pod_that_comes_after_it_was_given_up_is_ended(home: Renting) -> None:
    """Its answer was lost, and it was not listed: the guard ends it when it appears."""
    home.account.faults.set({Fault.LOST_CREATE: 1, Fault.UNLISTED: 6})
    with pytest.raises(LostAnswerError, match="nothing is asked for twice"):
        home.up()
    home.account.faults.clear()
    assert len(home.account.billing()) == 1
    home.guard()
    assert home.account.billing() == []
    assert creations(home) == 1


def test_a_pod_that_comes_when_its_request_is_forgotten_is_ended(home: Renting) -> None:
    """However late it comes: every name that was ever used is known."""
    home.account.faults.set({Fault.LOST_CREATE: 1, Fault.UNLISTED: ALWAYS})
    with pytest.raises(LostAnswerError):
        home.up()
    home.clock.forward(HOUR_S)
    home.guard()
    assert home.ledger.all()[0].state is PodState.REFUSED
    home.account.faults.clear()
    second = home.up()
    home.guard()
    assert [pod.name for pod in home.account.billing()] == [second.label]


def test_a_request_that_arrived_nowhere_is_forgotten(home: Renting) -> None:
    """Without an answer nothing is assumed; a quarter of an hour later the name is free again."""
    home.provider.pods()
    entry = home.order().entry("dure-try-00beef", home.provider.now())
    home.ledger.intend(entry)
    with pytest.raises(UsageError, match="a pod named try lives already"):
        home.up()
    home.clock.forward(HOUR_S)
    home.guard()
    assert home.up().state is PodState.LIVE


def test_a_command_that_died_leaves_its_pod_to_the_guard(home: Renting) -> None:
    """The name was written down before, so a pod without an id is found, and ends at its limit."""
    order = home.order(hours=1)
    home.provider.pods()
    label = "dure-try-0b0b0b"
    home.ledger.intend(order.entry(label, home.provider.now()))
    home.provider.create(order.spec(label, "ssh-ed25519 AAAA", home.server.url))
    home.guard()
    assert home.ledger.named("try").pod_id in home.account.pods
    home.clock.forward(HOUR_S)
    home.guard()
    assert home.account.billing() == []


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (Fault.NO_CAPACITY, 400, "no capacity"),
        (Fault.NO_BALANCE, 402, "no balance"),
    ],
)
def test_a_refused_pod_is_written_down_as_refused(
    home: Renting, fault: Fault, status: int, said: str
) -> None:
    """Nothing was made, and its name is free at once."""
    home.account.faults.set({fault: 1})
    with pytest.raises(PodError, match=said) as caught:
        home.up()
    assert caught.value.status == status
    assert home.ledger.all()[0].state is PodState.REFUSED
    assert home.up().state is PodState.LIVE


def test_a_body_that_is_wrong_is_no_lack_of_capacity(home: Renting) -> None:
    """422 is our fault, 400 the provider's."""
    with pytest.raises(PodError, match="does not understand") as caught:
        home.provider._ask("POST", "/pods", json={"name": "x", "colour": "red"})
    assert caught.value.status == 422
    assert "unknown field colour" in str(caught.value)


# ---------------------------------------------------------------- its price


def test_a_pod_that_is_dearer_than_shown_is_ended_at_once(home: Renting) -> None:
    """The price is read back after it was made."""
    home.account.faults.set({Fault.DEARER: 1})
    with pytest.raises(PodError, match=r"it costs \$1.06 an hour, and \$0.71 was shown"):
        home.up()
    assert home.account.billing() == []
    assert home.ledger.living() == []


def test_ceilings_count_what_all_pods_may_still_cost() -> None:
    """An hour's price, all pods' price, and a day's money are each a limit."""
    bill = Bill(Money.of("0.69"), Disks(20, 0), 8 * HOUR_S, Money.of("10"))
    wide = Ceilings(Money.of("1"), Money.of("2"), Money.of("20"))
    check_ceilings(bill, wide, [], NOTHING)
    with pytest.raises(UsageError, match="--max-price is"):
        check_ceilings(bill, Ceilings(Money.of("0.5"), wide.hourly, wide.daily), [], NOTHING)
    with pytest.raises(UsageError, match="--max-hourly is"):
        check_ceilings(bill, Ceilings(wide.price, Money.of("0.6"), wide.daily), [], NOTHING)
    with pytest.raises(UsageError, match="--max-daily is"):
        check_ceilings(bill, wide, [], Money.of("15"))
    short = Bill(bill.gpu, bill.disks, bill.max_seconds, Money.of("0.01"))
    with pytest.raises(UsageError, match="lasts 0 min"):
        check_ceilings(short, wide, [], NOTHING)


def test_a_running_pod_counts_towards_the_ceilings(home: Renting) -> None:
    """What it may still cost is taken, not what it has cost."""
    entry = home.up(home.order(hours=8))
    bill = home.order("next").bill
    ceilings = Ceilings(Money.of("1"), Money.of("2"), Money.of("10"))
    with pytest.raises(UsageError, match="--max-daily"):
        check_ceilings(bill, ceilings, [entry], NOTHING)
    home.lives().end(entry, "enough")
    check_ceilings(bill, ceilings, home.ledger.living(), NOTHING)


def test_two_that_ask_at_once_share_the_ceiling(home: Renting) -> None:
    """The ceilings are checked again when the pod is written down: the second sees the first."""
    order = home.order("second")

    def allow(living: list[Entry], lately: Money) -> None:
        ceilings = Ceilings(Money.of("1"), Money.of("1"), Money.of("20"))
        check_ceilings(order.bill, ceilings, living, lately)

    allow(home.ledger.living(), NOTHING)
    home.ledger.intend(home.order("first").entry("dure-first-000000", 0.0))
    with pytest.raises(UsageError, match="--max-hourly"):
        launch(home.lives(), order, PUBLIC_KEY, allow)
    assert home.account.pods == {}


# ---------------------------------------------------------------- stop, start, end


def test_a_stopped_pod_starts_with_a_new_deadline_in_it(home: Renting) -> None:
    """What money is left is what its own guard gets; the port is another one."""
    entry = home.up(home.order(hours=8, spend="2"))
    port = home.pod(entry).port
    home.clock.forward(2 * HOUR_S)
    lives = home.lives()
    stopped = lives.stop(entry)
    started, pod = lives.until_running(lives.start(stopped), 60)
    left = started.limits.max_spend - stopped.spent
    assert home.pod(entry).env[MAX_S] == str(left.lasts_s(started.limits.hourly))
    assert int(pod.env[MAX_S]) < 8 * HOUR_S
    assert pod.door is not None
    assert pod.door.port != port


def test_a_running_pod_is_not_started(home: Renting) -> None:
    """Its deadline stays, and the guard lets it run."""
    entry = home.up()
    with pytest.raises(UsageError, match="runs already"):
        home.lives().start(entry)
    home.guard()
    assert home.pod(entry).status == "RUNNING"


def test_a_lost_answer_to_a_start_is_a_new_run(home: Renting) -> None:
    """The pod runs, and the guard does not stop it again."""
    lives = home.lives()
    stopped = lives.stop(home.up(home.order(hours=2)))
    home.clock.forward(5 * HOUR_S)
    home.provider.pods()
    env = dict(home.pod(stopped).env)
    home.account.faults.set({Fault.LOST_ANSWER: 2})
    with pytest.raises(LostAnswerError):  # of the new deadline: it is not started then
        lives.start(stopped)
    assert home.account.billing() == []
    with pytest.raises(LostAnswerError):
        home.provider.start(stopped.pod_id)
    assert env.keys() == home.pod(stopped).env.keys()
    home.guard()
    assert home.again(stopped).wanted is Wanted.UP
    assert home.pod(stopped) in home.account.billing()


def test_a_pod_without_money_is_not_started(home: Renting) -> None:
    """Five minutes are the least that it must last."""
    entry = home.up(home.order(spend="1"))
    home.clock.forward(1.35 * HOUR_S)
    stopped = home.lives().stop(entry)
    with pytest.raises(UsageError, match=r"has cost \$0.9\d of \$1.00"):
        home.lives().start(stopped)
    assert home.account.billing() == []


def test_a_pod_without_its_gpus_is_stopped_again(home: Renting) -> None:
    """Its machine's GPUs are rented by others; it would cost money for nothing."""
    lives = home.lives()
    entry = lives.stop(home.up())
    home.account.faults.set({Fault.ZERO_GPUS: 1})
    with pytest.raises(PodError, match="came back with 0 of 1 GPUs"):
        lives.until_running(lives.start(entry), 60)
    assert home.account.billing() == []
    assert home.again(entry).wanted is Wanted.STOPPED


def test_a_pod_that_fails_is_ended(home: Renting) -> None:
    """A pod in the state ERROR is not waited for."""
    home.account.faults.set({Fault.ERROR_STATE: 1})
    entry = home.up()
    with pytest.raises(PodError, match="could not start it"):
        home.lives().until_running(entry, 60)
    assert home.account.billing() == []


def test_a_conflict_names_what_is_allowed(home: Renting) -> None:
    """409 is told with the actions that the pod allows."""
    entry = home.up()
    home.account.faults.set({Fault.CONFLICT: 1})
    with pytest.raises(ConflictError, match="allows stop, restart, terminate now") as caught:
        home.lives().stop(entry)
    assert caught.value.actions == ("stop", "restart", "terminate")
    assert len(home.account.billing()) == 1


def test_a_lost_answer_to_an_end_is_read_back(home: Renting) -> None:
    """It was done, and the next round finds that."""
    entry = home.up()
    home.account.faults.set({Fault.LOST_ANSWER: 1})
    with pytest.raises(LostAnswerError):
        home.lives().end(entry, "enough")
    assert home.again(entry).state is PodState.LIVE
    home.guard()
    assert home.again(entry).state is PodState.GONE


def test_a_slow_pod_is_waited_for(tmp_path: Path) -> None:
    """It boots for two minutes."""
    with renting(tmp_path, boot_s=120) as home:
        entry, pod = home.lives().until_running(home.up(), 600)
        assert pod.status == entry.status == "RUNNING"


# ---------------------------------------------------------------- the ledger


def test_the_ledger_outlives_its_process(home: Renting, tmp_path: Path) -> None:
    """Another process reads the same, and adds to it."""
    entry = home.up()
    other = Ledger(tmp_path / "pods")
    assert other.all() == [home.again(entry)]
    assert [event.kind for event in other.events(entry.label)] == ["intended", "status"]
    other.close()


def test_money_of_all_pods_is_counted_by_the_hour(home: Renting) -> None:
    """What was spent in the last 24 hours is in the ledger, whichever pod spent it."""
    home.up()
    for _ in range(3):
        home.clock.forward(HOUR_S)
        home.guard()
    spent = home.ledger.spent_lately(home.provider.now())
    assert spent == home.ledger.all()[0].spent >= home.account.billed()
    assert home.ledger.spent_lately(home.provider.now() + 48 * HOUR_S) == NOTHING
