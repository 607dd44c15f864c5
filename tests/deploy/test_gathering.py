"""Which nodes are waited for, and for how long; the nodes' answers are written here, the clock is real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from dure.cluster.root.membership import Cluster, Member
from dure.cluster.root.survey import NodeReport, Nodes
from dure.cluster.software import versions
from dure.cluster.trust.identity import new_request
from dure.deploy.node_wait import NodeWait
from dure.deploy.reporter import SilentReporter
from dure.errors import ClusterError, UsageError
from dure.hardware.health import Health, Platform

HEALTH = Health(None, (), None, 0.0, 0.0, 8 << 30, 1 << 40, ())
GRACE_S, POLL_EVERY_S = 0.3, 0.05


class Answers:
    """Stands in for the nodes: in each survey the next of `there` answer, at last always the same."""

    def __init__(self, *there: str) -> None:
        self._there = list(there)

    def survey(self, members: Sequence[Member], _timeout_s: float = 5.0) -> list[NodeReport]:
        there = self._there.pop(0) if len(self._there) > 1 else self._there[0]
        platform = Platform("pi", "aarch64", "Cortex-A76", (), 4, 8 << 30, versions())
        return [
            NodeReport(m, platform=platform, health=HEALTH)
            if m.name in there.split()
            else NodeReport(m, f"{m.name} does not answer")
            for m in members
        ]


class Listens(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def doing(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        self.told.append(what)
        return nullcontext(lambda _: None)

    def news(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """With the nodes a and b."""
    made = Cluster.create(tmp_path / "cluster", "home")
    for name in "ab":
        made.join(made.invite(60).secret, name, new_request(name)[1], "10.0.0.1", 7474)
    return made


def gathered(
    cluster: Cluster, grace_s: float, *there: str, **more: Any
) -> tuple[NodeWait, Listens]:
    listener = Listens()
    wait = NodeWait(
        cluster, cast(Nodes, Answers(*there)), grace_s, listener, poll_every_s=POLL_EVERY_S, **more
    )
    return wait, listener


def names(reports: Sequence[NodeReport]) -> list[str]:
    return [report.member.name for report in reports]


def test_all_that_answer_are_taken_at_once(cluster: Cluster) -> None:
    waits, listener = gathered(cluster, GRACE_S, "a b")
    there, missing = waits.wait()
    assert (names(there), missing, listener.told) == (["a", "b"], [], [])


def test_one_that_is_insisted_on_is_an_error_without_grace(cluster: Cluster) -> None:
    waits, _ = gathered(cluster, 0.0, "a", insists=True)
    with pytest.raises(ClusterError, match="b does not answer"):
        waits.wait()


def test_without_grace_it_goes_on_with_those_that_are_there(cluster: Cluster) -> None:
    """Where nobody insists; and it says so."""
    waits, listener = gathered(cluster, 0.0, "a")
    there, missing = waits.wait()
    assert (names(there), names(missing)) == (["a"], ["b"])
    assert listener.told == ["goes on without a node: b does not answer"]


def test_only_those_that_are_named_are_asked(cluster: Cluster) -> None:
    waits, listener = gathered(cluster, 0.0, "a", named=["a"], insists=True)
    there, missing = waits.wait()
    assert (names(there), missing, listener.told) == (["a"], [], [])
    unknown, _ = gathered(cluster, 0.0, "a", named=["c"], insists=True)
    with pytest.raises(UsageError, match="no node is called 'c'"):
        unknown.wait()


def test_one_that_comes_in_time_is_waited_for(cluster: Cluster) -> None:
    waits, listener = gathered(cluster, 60.0, "a", "", "a b")
    there, missing = waits.wait()
    assert (names(there), missing) == (["a", "b"], [])
    assert listener.told == [
        "waits for b, 60 s at most (--grace)",
        "waiting for b",
        "waiting for a, b",
    ]


def test_one_that_stays_away_is_left_out_and_noted(cluster: Cluster) -> None:
    waits, listener = gathered(cluster, GRACE_S, "a")
    there, missing = waits.wait()
    assert (names(there), names(missing)) == (["a"], ["b"])
    assert listener.told[-1] == "goes on without a node: b does not answer"
    assert [e["node"] for e in cluster.events.read() if e["event"] == "left_out"] == ["b"]


def test_where_the_rest_is_too_little_it_waits_on_past_the_grace(cluster: Cluster) -> None:
    """Until one more is there; a survey in which one vanishes is no reason to begin."""
    waits, listener = gathered(cluster, GRACE_S, *["a"] * 20, "", "", "a b")
    assert names(waits.wait()[0]) == ["a"]
    waits.require_more("the root has too little memory")
    there, missing = waits.wait()
    assert (names(there), missing) == (["a", "b"], [])
    assert "waiting for b, as the root has too little memory" in listener.told
    assert [e["reason"] for e in cluster.events.read() if e["event"] == "waiting"] == [
        "the root has too little memory"
    ]
