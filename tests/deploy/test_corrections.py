"""What a run has shown beside its prediction is kept, and counts for the same machines and figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from dure.cluster.root.speeds import KnownSpeeds, LinkSpeed
from dure.cluster.trust.identity import ROOT_NAME
from dure.deploy.cluster_setup import known_setup
from dure.deploy.corrections import CORRECTIONS_FILE, KnownCorrections
from dure.engine.instruments.speed import Speed
from dure.hardware.machine import Machine
from dure.model.gguf import open_gguf
from dure.plan.correction import Correction
from dure.plan.expectation import Expectations
from dure.plan.outline import outline_named, outlined_model
from dure.plan.outlook import Task, outlook_of
from dure.plan.setups import Setup

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
MACHINE = Machine(4, 8_000_000_000, 6_000_000_000, ("asimddp",))
NAMES = {ROOT_NAME: MACHINE, "pi-1": MACHINE}
SHOWN = Correction(0.8, 1.25, 1.8e9)


def measured(directory: Path, read: float = 10e9) -> KnownSpeeds:
    """Two machines whose speeds with one type and whose link are known."""
    known = KnownSpeeds(directory)
    for name in NAMES:
        known.keep(name, speed=Speed("Q4_0", 4, read, 10 * read))
    known.keep("pi-1", link=LinkSpeed(2e-4, 1e8))
    return known


def setup_at(directory: Path, read: float = 10e9) -> Setup:
    setup = known_setup(measured(directory, read), NAMES, ["Q4_0"])
    assert setup is not None
    return setup


def test_nothing_is_expected_of_machines_that_lack_a_figure(tmp_path: Path) -> None:
    """A type, a link or a number of threads with which nothing was measured: it is not guessed."""
    known = measured(tmp_path)
    assert known_setup(known, NAMES, ["Q4_0"]) is not None
    assert known_setup(known, NAMES, ["Q4_0"], threads=4) is not None
    assert known_setup(known, NAMES, ["Q4_0"], threads=1) is None
    assert known_setup(known, NAMES, ["Q6_K"]) is None
    assert known_setup(known, {**NAMES, "pi-2": MACHINE}, ["Q4_0"]) is None
    known.keep("pi-2", speed=Speed("Q4_0", 4, 1e10, 1e11))
    assert known_setup(known, {**NAMES, "pi-2": MACHINE}, ["Q4_0"]) is None  # its link


def test_a_run_is_expected_to_be_as_a_plan_says(tmp_path: Path) -> None:
    """With nothing in the context before, and slower with much of it."""
    outline = outline_named("qwen3:4b")
    assert outline is not None
    model, setup = outlined_model("qwen3:4b", outline, "Q4_0"), setup_at(tmp_path)
    expected = Expectations(model, setup, (0.5, 0.5))
    planned = outlook_of(model, setup, Task(), (0.5, 0.5)).prediction
    assert planned is not None
    short = expected.of(512, 1, 0)
    assert short.generation == planned.generation_per_s
    assert short.prompt == planned.prompt_per_s
    deep = expected.of(512, 1, 8192)
    assert deep.generation.value < short.generation.value
    assert deep.prompt.value < short.prompt.value


def test_a_correction_counts_for_the_same_machines_shares_and_figures(tmp_path: Path) -> None:
    """Not with others, for they may have nothing left of what was wrong; nor for experts."""
    setup, known = setup_at(tmp_path), KnownCorrections(tmp_path)
    outlines = [outline_named(name) for name in ("qwen3:4b", "qwen3:8b", "qwen3:30b-a3b")]
    dense, other, mixture = (outlined_model("m", one, "Q4_0") for one in outlines if one)
    known.keep(dense, setup, (1.0, 1.0), SHOWN)
    again = KnownCorrections(tmp_path)
    assert again.of(dense, setup, (0.5, 0.5)) == SHOWN
    assert again.of(other, setup, (1.0, 1.0)) == SHOWN
    assert again.of(mixture, setup, (1.0, 1.0)) is None
    assert again.of(dense, setup, (2.0, 1.0)) is None
    assert again.of(dense, setup_at(tmp_path / "later", 11e9), (1.0, 1.0)) is None
    newer = Correction(0.9, 1.0, 1.9e9)
    known.keep(dense, setup, (1.0, 1.0), newer)
    assert again.of(dense, setup, (1.0, 1.0)) == newer


def test_corrections_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    """The next run shows them again; what cannot be written leaves the file as it was."""
    setup, known = setup_at(tmp_path), KnownCorrections(tmp_path)
    with open_gguf(DEMO) as model:
        known.keep(model, setup, (1.0, 1.0), SHOWN)
        (tmp_path / CORRECTIONS_FILE).write_bytes(b"{")
        assert known.of(model, setup, (1.0, 1.0)) is None
        (tmp_path / f"{CORRECTIONS_FILE}.part").mkdir()
        with pytest.raises(OSError, match="part"):
            known.keep(model, setup, (1.0, 1.0), SHOWN)
    assert (tmp_path / CORRECTIONS_FILE).read_bytes() == b"{"


def test_a_corrected_outlook_has_the_speeds_that_were_shown(tmp_path: Path) -> None:
    """The parts of a token's time still add up to it, and the intervals go along."""
    outline = outline_named("qwen3:4b")
    assert outline is not None
    model = outlined_model("qwen3:4b", outline, "Q4_0")
    plain = outlook_of(model, setup_at(tmp_path), Task(), (0.5, 0.5))
    shown = plain.corrected(SHOWN)
    assert plain.corrected(None) == plain
    assert plain.prediction is not None
    assert shown.prediction is not None
    before, after = plain.prediction, shown.prediction
    assert after.generation_per_s.value == pytest.approx(0.8 * before.generation_per_s.value)
    assert after.generation_per_s.high == pytest.approx(0.8 * before.generation_per_s.high)
    assert after.generation.per_s == pytest.approx(after.generation_per_s.value)
    assert after.prompt.per_s == pytest.approx(1.25 * before.prompt.per_s)
