"""A pod rented on one machine and guarded on another: adopted by its label, and no other is touched."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path

import pytest
from msgspec.structs import replace

from dure.errors import UsageError
from dure.pods.adopting import adopt, carried
from dure.pods.ledger import Entry, Ledger, PodState
from dure.pods.life import PodLives
from dure.pods.money import Money
from tests.support.pod_accounts import HOUR_S, Renting, renting
from tests.support.pod_person import UP, Person, a_person


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Renting]:
    with renting(tmp_path / "laptop") as laptop:
        yield laptop


@pytest.fixture
def board(laptop: Renting, tmp_path: Path) -> Iterator[Renting]:
    """Another machine with the same account and a ledger of its own."""
    ledger = Ledger(tmp_path / "board")
    yield changed(laptop, ledger=ledger)
    ledger.close()


def lives(home: Renting) -> PodLives:
    return home.lives()


def test_an_adopted_pod_is_ended_at_its_limits(laptop: Renting, board: Renting) -> None:
    """While the machine that made it sleeps; that one then reads that it is gone."""
    entry = laptop.up(laptop.order(hours=2))
    laptop.clock.forward(HOUR_S)
    laptop.guard()
    there = adopt(lives(board), carried(laptop.again(entry)), entry.label)
    assert there.spent >= laptop.account.billed() > Money.of("0.69")
    laptop.clock.forward(HOUR_S)
    board.guard()
    assert laptop.account.billing() == []
    assert board.again(entry).state is PodState.GONE
    laptop.guard()
    assert laptop.again(entry).state is PodState.GONE


def test_an_adopted_pod_may_be_stopped_and_started_where_it_was_made(
    laptop: Renting, board: Renting
) -> None:
    """The other guard sees a new run, and not a pod that disobeys."""
    entry = laptop.up(laptop.order(hours=2))
    adopt(lives(board), carried(entry), entry.label)
    stopped = laptop.lives().stop(entry)
    board.guard()
    laptop.clock.forward(5 * HOUR_S)
    laptop.lives().start(stopped)
    board.guard()
    assert len(laptop.account.billing()) == 1
    laptop.clock.forward(2 * HOUR_S)
    board.guard()
    assert laptop.account.billing() == []


def test_new_limits_are_adopted_again(laptop: Renting, board: Renting) -> None:
    """Nothing else of the entry changes."""
    entry = laptop.up(laptop.order(hours=2, idle_s=600))
    first = adopt(lives(board), carried(entry), entry.label)
    assert first.limits.idle_s == 0, "the guard in the pod sees short requests, this one does not"
    longer = replace(entry, limits=replace(entry.limits, max_seconds=4 * HOUR_S), spent=Money())
    again = adopt(lives(board), carried(longer), entry.label)
    assert again.limits.max_seconds == 4 * HOUR_S
    assert len(board.ledger.all()) == 1


def test_a_name_that_is_taken_here_is_the_label(laptop: Renting, board: Renting) -> None:
    """Both pods are guarded."""
    own, other = board.up(), laptop.up()
    assert own.name == other.name
    assert adopt(lives(board), carried(other), other.label).name == other.label


def test_a_pod_that_is_not_the_entry_s_is_not_adopted(laptop: Renting, board: Renting) -> None:
    """Neither a stranger's id under our label, nor another label, nor what is over."""
    entry = laptop.up()
    stranger = laptop.account.create({"name": "theirs", "gpu": {"id": "NVIDIA L40S"}})
    wrong: list[tuple[Entry, str, str]] = [
        (replace(entry, pod_id=stranger["id"]), entry.label, "has no pod"),
        (replace(entry, label="theirs", pod_id=stranger["id"]), "theirs", "--adopt says"),
        (entry, "dure-other-000000", "--adopt says"),
        (replace(entry, pod_id=""), entry.label, "has no pod"),
        (replace(entry, state=PodState.GONE), entry.label, "is over"),
    ]
    for given, label, problem in wrong:
        with pytest.raises(UsageError, match=problem):
            adopt(lives(board), carried(given), label)
    with pytest.raises(UsageError, match="no entry of a ledger"):
        adopt(lives(board), "{}", entry.label)
    assert board.ledger.all() == []


def test_the_line_of_the_page(tmp_path: Path) -> None:
    """`dure pod export NAME --ledger` on one machine, piped into `dure pod guard --adopt` on another."""
    with a_person(tmp_path) as person:
        person.dure(*UP)
        entry, label = person.dure("export", "w", "--ledger"), person.pod.name
        assert f"dure pod guard --adopt {label}" in person.said[-1]
        board = Person(tmp_path / "board", person.server)
        board.home.mkdir()
        done = subprocess.run(
            board.command("guard", "--adopt", label),
            input=entry,
            env=board.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "`dure pod guard --install`" in done.stderr
        person.server.account.clock.forward(8 * HOUR_S)
        assert board.json("guard", "--once")["pods"][0]["act"] == "terminate"
        assert person.server.account.billing() == []
