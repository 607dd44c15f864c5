"""A running model corrects what is known of the cluster's speeds, once that pays."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.cluster.root.membership import Cluster
from dure.cluster.root.speeds import KnownSpeeds
from dure.deploy.learning import Learning
from dure.engine.instruments.speed import Speed

HELD = {"dure-root": 2e9, "pi": 2e9}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A root and a node that were measured to be alike."""
    cluster = Cluster.create(tmp_path, "attic")
    known = KnownSpeeds(cluster.directory)
    for name in HELD:
        known.keep(name, speed=Speed("Q4_0", 4, 10e9, 50e9))
    return cluster


def speeds(cluster: Cluster, type_name: str = "Q4_0") -> list[float | None]:
    known = KnownSpeeds(cluster.directory)
    found = [known.speed(name, type_name) for name in HELD]
    return [speed.decode_bytes_per_s if speed else None for speed in found]


def test_a_slower_rank_gets_less_next_time_and_the_log_says_why(cluster: Cluster) -> None:
    Learning(cluster, "Q4_0", HELD, lambda: False).learn([0.2, 0.3])
    assert speeds(cluster) == pytest.approx([12e9, 8e9])
    event = next(e for e in cluster.events.read() if e["event"] == "speeds_corrected")
    assert event["compute_ms"] == [200, 300]
    assert event["gb_per_s"] == {"dure-root": 12.0, "pi": 8.0}


@pytest.mark.parametrize(
    ("seconds", "type_name"),
    [
        ([0.2, 0.21], "Q4_0"),  # nearly alike
        ([0.0005, 0.0015], "Q4_0"),  # too short to say anything of weights
        ([0.2, 0.3], "Q8_0"),  # never measured: the user gave the shares
        ([0.2], "Q4_0"),  # alone, after all
    ],
)
def test_nothing_is_changed_without_need(
    cluster: Cluster, seconds: list[float], type_name: str
) -> None:
    Learning(cluster, type_name, HELD, lambda: False).learn(seconds)
    assert speeds(cluster) == [10e9, 10e9]
    assert speeds(cluster, "Q8_0") == [None, None]
    assert all(e["event"] != "speeds_corrected" for e in cluster.events.read())


def test_nothing_is_learned_beside_another_job(cluster: Cluster) -> None:
    """A machine that works for two looks slower than it is."""
    Learning(cluster, "Q4_0", HELD, lambda: True).learn([0.2, 0.3])
    assert speeds(cluster) == [10e9, 10e9]
