"""`dure bench` says what was to be expected, and a cluster's plan learns from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.cluster.root.membership import Cluster
from dure.cluster.root.speeds import KnownSpeeds
from dure.cluster.trust.identity import ROOT_NAME
from dure.deploy.cluster_setup import known_setup
from dure.deploy.corrections import KnownCorrections
from dure.engine.instruments.speed import Speed
from dure.hardware.probe import probe
from dure.model.gguf import open_gguf
from dure.plan.correction import Correction
from dure.plan.load import main_type_of
from tests.support.dure_process import Dure, as_json

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
RUNS = ("bench", DEMO, "-p", "32", "-n", "32", "--repeat", "1")


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program, with a cluster of which nothing is known; none of its processes is left behind."""
    program = Dure(tmp_path / "cache")
    program.environment["DURE_CLUSTER_DIR"] = str(tmp_path / "cluster")
    Cluster.create(tmp_path / "cluster", "home")
    yield program
    assert program.left_behind() == []


def measure(directory: Path) -> None:
    """Let this machine have a speed, as `dure cluster bench` would."""
    with open_gguf(DEMO) as model:
        wanted = main_type_of(model)
    known = KnownSpeeds(directory)
    for _ in range(3):
        known.keep(ROOT_NAME, speed=Speed(wanted, probe().cores, 10e9, 100e9))


def test_nothing_is_predicted_from_what_is_not_known(dure: Dure, tmp_path: Path) -> None:
    """Nor is anything measured for it."""
    assert as_json(dure(*RUNS, "--json"))["rows"][0]["predicted"] is None
    assert "predicted" not in dure(*RUNS, "-p", "2,4").stdout
    assert not (tmp_path / "cluster" / "speeds.json").exists()


def test_a_measured_speed_stands_beside_the_predicted_one(dure: Dure, tmp_path: Path) -> None:
    """In lines, in a table and as data, with the difference; not with threads that were not measured."""
    measure(tmp_path / "cluster")
    assert "predicted   prompt " in dure(*RUNS).stdout
    assert dure(*RUNS, "-n", "2,4").stdout.count("(measured ") == 4
    row = as_json(dure(*RUNS, "--json"))["rows"][0]
    for name in ("prompt", "generation"):
        predicted, speed = row["predicted"][name], row[name]["tokens_per_s"]["median"]
        assert predicted["low"] < predicted["value"] < predicted["high"]
        assert predicted["measured_beside_it"] == pytest.approx(speed / predicted["value"])
    assert row["predicted"]["basis"] == "machine measured here"
    others = as_json(dure(*RUNS, "-t", probe().cores + 1, "--json"))["rows"][0]
    assert others["predicted"] is None
    assert not (tmp_path / "cluster" / "corrections.json").exists()


def test_a_plan_for_the_cluster_is_corrected_by_what_a_run_has_shown(
    dure: Dure, tmp_path: Path
) -> None:
    """And says so."""
    directory = tmp_path / "cluster"
    measure(directory)
    plan = ("plan", DEMO, "--cluster", "--json")
    before = as_json(dure(*plan))
    assert before["correction"] is None
    with open_gguf(DEMO) as model:
        wanted = main_type_of(model)
        setup = known_setup(KnownSpeeds(directory), {ROOT_NAME: probe()}, [wanted])
        assert setup is not None
        KnownCorrections(directory).keep(model, setup, (1.0,), Correction(0.5, 2.0, 1.8e9))
    after = as_json(dure(*plan))
    assert after["basis"] == "measured here"
    for name, ratio in (("generation", 0.5), ("prompt", 2.0)):
        expected = ratio * before[name]["tokens_per_s"]
        assert after[name]["tokens_per_s"] == pytest.approx(expected)
    assert "corrected by" in dure(*plan[:-1]).stdout
