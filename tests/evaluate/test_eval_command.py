"""`dure eval` as a user runs it: what it prints and writes, what it keeps, and how it fails."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dure_process import WAIT_S, Dure, as_json, error_line
from tests.support.variants import write_variant

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "dure-demo.gguf"
TEXT = ROOT / "docs" / "models.md"
QUICK = ("--threads", 1, "--ctx", 64, "--chunks", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo model and one that differs from it."""
    folder = tmp_path_factory.mktemp("models")
    write_variant(folder / "near.gguf", DEMO, 0.02)
    write_variant(folder / "far.gguf", DEMO, 0.5)
    return folder


@pytest.fixture
def dure(tmp_path: Path) -> Iterator[Dure]:
    """The program with a cache of its own; none of its processes is left."""
    program = Dure(tmp_path / "cache")
    yield program
    assert program.left_behind() == []


def test_a_judgement_in_words_data_card_and_plot(dure: Dure, folder: Path, tmp_path: Path) -> None:
    """All forms tell the same; the nearer model is the better one."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"query": "The goat", "choices": ["is", "xq"], "gold": 0}) + "\n")
    asked = ("eval", folder / "near.gguf", folder / "far.gguf", "--against", DEMO, *QUICK)
    more = ("--data", TEXT, "--tasks", tasks)
    told = dure(*asked, *more, "--card", "--plot", tmp_path / "plot.svg")
    assert told.returncode == 0, told.stderr
    assert "near.gguf, beside dure-demo.gguf\n" in told.stdout
    assert told.stdout.count("agrees with the original on ") == 2
    assert "KL divergence  mean " in told.stdout
    assert "right on 1 of 1 questions, ± 1 (the original on 1)" in told.stdout
    assert "3 windows of 64 tokens of models.md, SHA-256 " in told.stdout
    near, far = as_json(dure(*asked, *more, "--json"))
    assert near["divergence"]["mean"]["value"] < far["divergence"]["mean"]["value"]
    assert near["model"]["bytes_per_token"] == pytest.approx(7.3e6, rel=0.05)
    assert near["original"]["name"] == "dure-demo.gguf"
    card: dict[str, Any] = json.loads((folder / "near.card.json").read_text())
    assert card["divergence"] == near["divergence"]
    assert card["text"]["sha256"] == near["text"]["sha256"]
    words = (folder / "near.card.md").read_text()
    assert words.startswith("# near.gguf\n")
    assert near["model"]["fingerprint"] in words
    assert near["text"]["sha256"] in words
    assert "agrees with the original on " in words
    plot = (tmp_path / "plot.svg").read_text()
    assert plot.startswith("<?xml")
    assert plot.count("<!-- near -->") == plot.count("<!-- far -->") == 1


def test_without_a_text_the_original_writes_one(dure: Dure, folder: Path) -> None:
    """The text is kept, and told; another model is judged on the same one."""
    asked = ("eval", folder / "far.gguf", "--against", DEMO, *QUICK, "--json")
    (first,), (second,) = as_json(dure(*asked)), as_json(dure(*asked))
    assert first["text"] == second["text"]
    assert first["text"]["source"] == "dure-demo.gguf"
    assert first["text"]["is_own"] is True
    assert first["divergence"] == second["divergence"]


def test_a_killed_run_goes_on_where_it_was(dure: Dure, folder: Path, tmp_path: Path) -> None:
    """Windows that were finished stay as they are, and the figures are those of a run without a break."""
    asked = ("eval", folder / "far.gguf", "--against", DEMO, "--data", TEXT, "--threads", 1)
    options = ("--ctx", 64, "--chunks", 24, "--json")
    kept = tmp_path / "cache" / "evaluations"
    end = time.monotonic() + WAIT_S
    with dure.start(*asked, *options) as process:
        while not (done := sorted(kept.glob("*/000000"))) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    first = done[0].stat().st_mtime_ns
    (resumed,) = as_json(dure(*asked, *options))
    assert done[0].stat().st_mtime_ns == first
    (whole,) = as_json(Dure(tmp_path / "other")(*asked, *options))
    assert resumed["divergence"] == whole["divergence"]


def test_tasks_alone_need_no_text(dure: Dure, tmp_path: Path) -> None:
    """Only questions are asked, and the speed is measured."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"query": "The goat", "choices": ["is", "xq"], "gold": 0}) + "\n")
    (found,) = as_json(dure("eval", DEMO, "--tasks", tasks, *QUICK, "--json"))
    assert (found["text"], found["perplexity"], found["divergence"]) == (None, None, None)
    assert found["tasks"][0]["right"]["value"] == 1.0
    assert found["speed"]["generation"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chunks", 1), "--chunks 1: give 2 or more"),
        (("--data", "missing"), "--data missing cannot be read: No such file or directory"),
        (("--plot", "x.pdf"), "--plot x.pdf: name a file that ends in .svg or .png"),
        ((DEMO,), "several models need one text: name a text with --data, or their original"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    dure: Dure, options: tuple[object, ...], message: str
) -> None:
    """An error names the option and the cure, before a model is started."""
    told = dure("eval", DEMO, "--ctx", 64, "--threads", 1, *options)
    assert error_line(told.stderr) == f"dure: {message}"


def test_a_card_that_cannot_be_written_is_an_error(dure: Dure, tmp_path: Path) -> None:
    """The figures were printed, nothing is left half-written, and the cure says what to do."""
    write_variant(tmp_path / "m.gguf", DEMO, 0.1)
    (tmp_path / "m.card.md").mkdir()
    asked = ("eval", tmp_path / "m.gguf", "--data", TEXT, *QUICK, "--card")
    told = dure(*asked)
    assert told.returncode == 1
    assert "m.card.md cannot be written" in told.stderr
    assert "leave out --card" in told.stderr
    assert sorted(path.name for path in tmp_path.glob("m.*")) == ["m.card.md", "m.gguf"]
