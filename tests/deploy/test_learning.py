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


def test_a_correction_counts_until_the_machine_is_measured_again(cluster: Cluster) -> None:
    Learning(cluster, "Q4_0", HELD, lambda: False).learn([0.2, 0.3])
    known = KnownSpeeds(cluster.directory)
    assert known.machine("pi").types["Q4_0"].corrected
    known.keep("pi", speed=Speed("Q4_0", 4, 11e9, 50e9))
    assert speeds(cluster) == pytest.approx([12e9, 10.5e9])
    assert not KnownSpeeds(cluster.directory).machine("pi").types["Q4_0"].corrected


def test_the_median_of_the_last_five_samples_counts(cluster: Cluster) -> None:
    """With their spread and the time of the last; older ones are forgotten."""
    known = KnownSpeeds(cluster.directory)
    for decode in (0.5e9, 23e9, 22e9, 24e9, 23e9):
        known.keep("pi", speed=Speed("Q4_0", 4, decode, decode))
    assert known.samples("pi", "Q4_0") == [0.5e9, 23e9, 22e9, 24e9, 23e9]
    told = KnownSpeeds(cluster.directory).machine("pi").types["Q4_0"]
    assert (told.decode_bytes_per_s, told.prompt_bytes_per_s, told.samples) == (23e9, 23e9, 5)
    assert told.spread == pytest.approx(1 / 23)
    assert told.measured is not None


def test_what_older_samples_lack_is_the_median_of_the_others(cluster: Cluster) -> None:
    """A version before this one measured neither layers nor vectors nor a few tokens at once."""
    known = KnownSpeeds(cluster.directory)
    known.keep("pi", speed=Speed("Q4_0", 4, 20e9, 50e9))
    known.keep("pi", speed=Speed("Q4_0", 4, 20e9, 50e9, 4e-6, 2e-9))
    known.keep("pi", speed=Speed("Q4_0", 4, 20e9, 50e9, 6e-6, 0.0, 30e9))
    told = KnownSpeeds(cluster.directory).speed("pi", "Q4_0")
    assert told is not None
    assert (told.layer_s, told.column_s) == pytest.approx((5e-6, 1e-9))
    assert told.few_bytes_per_s == 30e9


def test_a_file_of_single_measurements_is_still_read(cluster: Cluster) -> None:
    """Each is one sample of an age that is not known."""
    old = '{"machines": {"pi": {"Q4_0": {"type": "Q4_0", "threads": 4, "decode_bytes_per_s": 5e8, '
    old += (
        '"prompt_bytes_per_s": 1e9}}}, "links": {"pi": {"round_trip_s": 0.1, "bytes_per_s": 1e8}}}'
    )
    (cluster.directory / "speeds.json").write_text(old)
    known = KnownSpeeds(cluster.directory)
    link = known.link("pi")
    assert link is not None
    assert link.round_trip_s == 0.1
    told = known.machine("pi").types["Q4_0"]
    assert (told.decode_bytes_per_s, told.samples, told.measured) == (5e8, 1, None)
    known.keep("pi", speed=Speed("Q4_0", 4, 23e9, 1e9))
    assert KnownSpeeds(cluster.directory).samples("pi", "Q4_0") == [5e8, 23e9]
