"""Levers are tried on recorded machines, whose speed follows from their settings: what helps stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from dure.doctor.changes import ChangeJournal
from dure.doctor.finding import SettingValue
from dure.doctor.levers import levers_of
from dure.doctor.tuning import Latency, tune
from dure.errors import EngineError
from dure.hardware.settings import MachineSettings
from tests.support.machine_roots import CPU, GRO, Files, addresses, condition_of

GOVERNOR = f"file:{CPU}/cpufreq/policy0/scaling_governor"
POLL = "file:/proc/sys/net/core/busy_read"
AFFINITY = "file:/proc/irq/106/smp_affinity_list"
UNTUNED: Files = {
    GOVERNOR[5:]: "ondemand\n",
    POLL[5:]: "0\n",
    "/proc/sys/net/core/busy_poll": "0\n",
    AFFINITY[5:]: "0\n",
}


class Board:
    """A recorded board: thrifty clocks make it slow, waiting awake makes it slower still."""

    def __init__(self, root: Path, changes: Files = UNTUNED) -> None:
        self.condition = condition_of(root, changes)
        self.settings = MachineSettings(root)

    def latency(self) -> Latency:
        slow = 1.0 if self.settings.read(GOVERNOR) == "performance" else 1.1
        awake = 1.05 if self.settings.read(POLL) == "50" else 1.0
        return Latency(200e-6 / awake, 0.05 * slow * awake)


@pytest.fixture
def boards(tmp_path: Path) -> dict[str, Board]:
    return {"dure-root": Board(tmp_path / "root"), "pi-1": Board(tmp_path / "pi-1")}


def tuned(
    boards: dict[str, Board], journal: ChangeJournal, measure: Callable[[], Latency]
) -> dict[str, tuple[bool, str]]:
    levers = levers_of({name: board.condition for name, board in boards.items()})
    settings = {name: board.settings for name, board in boards.items()}
    found = tune(levers, settings, lambda _: measure(), journal)
    return {one.lever.name: (one.helps, one.problem) for one in found}


def test_what_helps_is_kept_and_the_rest_is_as_before(
    tmp_path: Path, boards: dict[str, Board]
) -> None:
    """By a token's time: a shorter round trip alone is no reason. Undoing takes back what was kept."""
    journal = ChangeJournal(tmp_path / "doctor.json")

    def measure() -> Latency:
        each = [board.latency() for board in boards.values()]
        return max(each, key=lambda one: one.deciding_s)

    results = tuned(boards, journal, measure)
    assert results == {
        "governor": (True, ""),
        "busy-polling": (False, ""),
        "affinity": (False, ""),
    }
    for board in boards.values():
        assert board.settings.read(GOVERNOR) == "performance"
        assert board.settings.read(POLL) == "0"
        assert board.settings.read(AFFINITY) == "0"
    assert [(one.machine, one.check) for one in journal.read()] == [
        ("dure-root", "governor"),
        ("pi-1", "governor"),
    ]


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([1.0, 0.9, 0.85, 0.8], id="quicker once"),
        pytest.param([1.0, 0.9, 1.0, 0.9, 0.95, 0.97], id="quicker twice, then slower"),
        pytest.param([1.0, 0.9, 1.0, 0.9, 1.0, 0.9, 0.85, 0.9], id="quicker thrice"),
        pytest.param([1.0, 0.999] * 4, id="quicker by too little"),
    ],
)
def test_chance_is_no_gain(tmp_path: Path, boards: dict[str, Board], times: list[float]) -> None:
    """A lever is kept only if it was quicker each of four times, and no longer tried once it was not."""
    left = iter(times * 3)
    journal = ChangeJournal(tmp_path / "doctor.json")
    results = tuned(boards, journal, lambda: Latency(next(left)))
    assert not any(helps for helps, _ in results.values())
    assert journal.read() == []


def test_a_machine_that_refuses_is_named_and_the_others_are_as_before(
    tmp_path: Path, boards: dict[str, Board]
) -> None:
    """A recording runs no programs, so its GRO cannot be changed."""
    gro: Files = {**UNTUNED, "commands/ethtool -k eth0": GRO.format(gro="on")}
    boards["pi-1"] = Board(tmp_path / "pi-1", gro)
    journal = ChangeJournal(tmp_path / "doctor.json")
    results = tuned(boards, journal, lambda: Latency(1.0))
    assert "gro:eth0 cannot be changed" in results["gathered-packets"][1]
    assert journal.read() == []


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_measurement_that_fails_leaves_nothing_changed(
    tmp_path: Path, boards: dict[str, Board], failing: int
) -> None:
    """As when the model that is measured ends: that is no lever's fault, and ends the tuning."""
    journal = ChangeJournal(tmp_path / "doctor.json")
    n = 0

    def measure() -> Latency:
        nonlocal n
        n += 1
        if n == failing:
            raise EngineError("a rank died")
        return Latency(1.0)

    with pytest.raises(EngineError):
        tuned(boards, journal, measure)
    assert boards["pi-1"].settings.read(GOVERNOR) == "ondemand"
    assert journal.read() == []


def test_a_lever_is_pulled_only_where_it_is_not_yet(tmp_path: Path) -> None:
    """A machine that is tuned already has none, and a lever names the machines that have it."""
    tuned_already: Files = {POLL[5:]: "50\n", "/proc/interrupts": "CPU0\n"}
    one = condition_of(tmp_path / "one", tuned_already)
    assert levers_of({"pi-1": one}) == []
    small: Files = {**tuned_already, "commands/ip -json address": addresses(mtu=1400)}
    two = condition_of(tmp_path / "two", small)
    [lever] = levers_of({"pi-1": one, "pi-2": two})
    assert (lever.name, list(lever.settings)) == ("mtu", ["pi-2"])


def test_what_only_ranks_show_is_a_lever_of_a_model_and_the_last(tmp_path: Path) -> None:
    """Ranks take their priority over when they start: the model is started anew for it alone."""
    conditions = {"pi-1": condition_of(tmp_path, UNTUNED)}
    levers = levers_of(conditions, with_model=True)
    assert [one.name for one in levers if one.restarts] == ["priority"]
    assert levers[-1].settings == {"pi-1": (SettingValue("ranks:priority", "6"),)}
    assert levers_of(conditions) == levers[:-1]
    older = dataclasses.replace(conditions["pi-1"], rank_priority=None)
    assert levers_of({"pi-1": older}, with_model=True) == levers[:-1]
