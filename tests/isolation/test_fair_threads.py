"""Calls of several owners share threads: each has its turn, and none waits for another's long ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait

import pytest

from dure.fair_threads import LOWEST_PRIORITY, Call, FairThreads
from tests.support.serving import wait_until

WAIT_S = 60.0  # detects a hang


class Calls:
    """Calls that wait until they are let go. begun: their names, in the order of their beginnings."""

    def __init__(self, threads: FairThreads) -> None:
        self._threads, self._gates = threads, dict[str, threading.Event]()
        self.begun: list[str] = []
        self.all = dict[str, Call[str]]()

    def submit(self, *names: str) -> None:
        """Submit calls; the first letter of a name is its owner's."""
        for name in names:
            self._gates[name] = threading.Event()
            self.all[name] = self._threads.submit(name[0], self._call, name)

    def _call(self, name: str) -> str:
        self.begun.append(name)
        assert self._gates[name].wait(WAIT_S)
        return name

    def let_go(self, *names: str) -> None:
        for name in names:
            self._gates[name].set()
            if not self.all[name].cancelled():
                assert self.all[name].result(WAIT_S) == name

    def wait_for(self, *names: str) -> None:
        """Wait until exactly these have begun."""
        wait_until(lambda: len(self.begun) >= len(names), f"{names} do not begin: {self.begun}")
        assert sorted(self.begun) == sorted(names)


@pytest.fixture(name="calls")
def _calls() -> Iterator[Calls]:
    """Two at once for each owner, and one more place; two may be given up."""
    calls = Calls(FairThreads(2, "test", most_given_up=2))
    yield calls
    for call in calls.all.values():
        call.cancel()
    calls.let_go(*calls.all)


def test_an_owner_never_takes_the_last_place(calls: Calls) -> None:
    """Another's call begins at once; one of a third owner has the next place, before more of the first."""
    calls.submit("a1", "a2", "a3", "a4")
    calls.submit("b1", "b2")
    calls.submit("c1")
    calls.wait_for("a1", "a2", "b1")
    calls.let_go("a1")
    calls.wait_for("a1", "a2", "b1", "c1")


def test_owners_take_turns(calls: Calls) -> None:
    """However many calls one of them has waiting, and though these came sooner."""
    begun = ["a1", "a2", "b1"]
    calls.submit(*begun)
    calls.wait_for(*begun)
    calls.submit("c1", "c2", "c3", "d1", "b2")
    for ended, next_ in (("a1", "c1"), ("a2", "d1"), ("b1", None), ("d1", "b2")):
        calls.let_go(ended)
        if next_ is not None:
            begun.append(next_)
            calls.wait_for(*begun)


def test_a_cancelled_call_leaves_the_queue(calls: Calls) -> None:
    """It is not called, and the next one has its turn."""
    calls.submit("a1", "a2", "a3", "a4")
    assert calls.all["a3"].cancel()
    calls.let_go("a1")
    calls.wait_for("a1", "a2", "a4")
    with pytest.raises(CancelledError):
        calls.all["a3"].result()


def test_a_call_that_is_given_up_leaves_its_place_to_others(calls: Calls) -> None:
    """Up to a number of them: then all wait until one ends. Its thread has the lowest priority."""
    calls.submit("a1", "a2", "a3", "a4", "a5")
    calls.wait_for("a1", "a2")
    for name in ("a1", "a2"):
        calls._threads.give_up(calls.all[name])
    calls.wait_for("a1", "a2", "a3", "a4")
    priorities = [os.getpriority(os.PRIO_PROCESS, call.thread) for call in calls.all.values()][:4]
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert priorities == [LOWEST_PRIORITY, LOWEST_PRIORITY, own, own]
    for name in ("a3", "a4"):
        calls._threads.give_up(calls.all[name])
    assert calls._threads.is_stuck
    calls.let_go("a1")
    calls.wait_for("a1", "a2", "a3", "a4", "a5")
    assert not calls._threads.is_stuck


def test_closing_cancels_what_waits(calls: Calls) -> None:
    """And returns once the rest has ended."""
    calls.submit("a1", "a2", "a3")
    calls.wait_for("a1", "a2")
    closing = threading.Thread(target=calls._threads.close)
    closing.start()
    wait([calls.all["a3"]], WAIT_S)
    assert calls.all["a3"].cancelled()
    assert closing.is_alive()
    calls.let_go("a1", "a2")
    closing.join(WAIT_S)
    assert not closing.is_alive()
