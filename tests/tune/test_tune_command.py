"""`dure tune` as people run it: killed, stopped, out of memory, as JSON."""

from __future__ import annotations

import json
import random
import re
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dure.work_notes import interrupt
from tests.support.dure_process import DURE, Dure, as_json, error_line
from tests.support.long_work import notes_of
from tests.support.tiny_models import chats, write_lines, write_tiny_model

OPTIONS = ["--ctx", "128", "--lr", "3e-3", "--steps", "40", "--threads", "1"]
OPTIONS += ["--eval-split", "0.2", "--eval-every", "15"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a command of 40 steps without its --out."""
    folder = tmp_path_factory.mktemp("command")
    base = write_tiny_model(folder / "base")
    data = write_lines(folder / "chats.jsonl", *chats(60))
    return ["tune", str(base), "--data", str(data), "--dropout", "0.2", *OPTIONS]


@pytest.fixture
def dure(tmp_path: Path) -> Dure:
    return Dure(tmp_path / "cache")


def read_until(process: subprocess.Popen[bytes], step: int) -> None:
    """Read events until a step was done."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "step" and event["step"] >= step:
            return
    raise AssertionError(f"step {step} never came")


@pytest.fixture(scope="module")
def whole(
    arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """Return the folder of a run that nothing disturbed, and what it told."""
    folder = tmp_path_factory.mktemp("whole")
    done = Dure(folder / "cache")(*arguments, "--json", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out", [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_tells_its_events_as_lines_of_json(
    whole: tuple[Path, list[dict[str, Any]]],
) -> None:
    out, events = whole
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["data", "model"]
    assert kinds.count("step") == 40
    assert kinds.count("evaluation") == 3
    assert events[-1]["event"] == "finished"
    assert Path(events[-1]["path"]) == out / "adapter"


def test_a_run_that_is_killed_goes_on_with_the_same_losses(
    dure: Dure, arguments: list[str], whole: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Bit by bit, whenever it is killed: here at a step that chance names. Others see all of them."""
    command = [*arguments, "--json", "--save-every", "4", "--out", tmp_path / "out"]
    killed_at = random.randrange(5, 38)
    process = dure.start(*command, stdout=subprocess.PIPE)
    read_until(process, killed_at)
    process.kill()
    process.communicate()
    done = dure(*command)
    assert done.returncode == 0, done.stderr
    assert '"event": "resumed"' in done.stdout
    found = (tmp_path / "out" / "losses.jsonl").read_text()
    assert found == (whole[0] / "losses.jsonl").read_text(), f"killed at {killed_at}"
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (whole[0] / name).read_bytes()
    work, _ = notes_of(dure)
    assert work.losses
    assert (work.state, work.done) == ("done", 40)
    assert [step for step, _ in work.losses.learned] == list(range(1, 41))
    assert [step for step, _ in work.losses.held_out] == [15, 30, 40]


def test_a_run_that_others_see_is_stopped_after_a_checkpoint_and_says_how_to_go_on(
    dure: Dure, arguments: list[str], tmp_path: Path
) -> None:
    """It is interrupted as the page does it, which is Ctrl-C; `dure ps` says what was stopped."""
    command = [*arguments, "--json", "--out", tmp_path / "out"]
    process = dure.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read_until(process, 3)
    (work,) = notes_of(dure)
    assert (work.kind, work.phase, work.unit, work.total) == ("tune", "learning", "steps", 40)
    assert interrupt(work)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"the same command goes on from there" in told
    step = int(told.decode().split("after step ")[1].split(",")[0])
    assert (tmp_path / f"out/checkpoints/step-{step:06}/weights.pt").exists()
    (work,) = notes_of(dure)
    assert work.losses
    assert (work.state, work.done, len(work.losses.learned)) == ("stopped", step, step)
    (told_work,) = as_json(dure("ps", "--json"))["work"]
    assert (told_work["kind"], told_work["phase"], told_work["state"]) == (
        "tune",
        "learning",
        "stopped",
    )


def test_on_a_terminal_the_loss_is_a_line(dure: Dure, arguments: list[str], tmp_path: Path) -> None:
    with dure.terminal(*arguments, "--out", tmp_path / "out") as terminal:
        shown = terminal.read_all()
    assert "tokens/s" in shown
    assert any("\u2801" <= character <= "\u28ff" for character in shown)
    assert "held-out loss" in shown
    assert shown.rstrip().endswith("out/adapter")


def in_two_gigabytes(dure: Dure, folder: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run a process that may have 2 GB, and a step that needs more."""
    base = write_tiny_model(folder / "base", max_position_embeddings=8192, intermediate_size=65536)
    data = write_lines(folder / "long.jsonl", {"text": "a" * 8000})
    options = ("--full", "--ctx", "8192", "--no-pack", "--threads", "1", *options)
    return subprocess.run(
        [*DURE, "tune", base, "--data", data, *options, "--out", folder / "out"],
        env=dure.environment,
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30)),
    )


def test_a_run_that_does_not_fit_is_not_begun(dure: Dure, tmp_path: Path) -> None:
    """It says so before the model is loaded, with what makes it fit; other settings may follow."""
    done = in_two_gigabytes(dure, tmp_path)
    told = done.stderr.decode().splitlines()[-1]
    assert re.match(r"dure: the run needs \d.* of memory, and \d.* are free: ", told), told
    assert told.endswith("; --anyway begins in spite of that")
    assert done.returncode == 1
    assert not (tmp_path / "out/run.json").exists()


def test_memory_that_runs_out_is_told_with_what_makes_it_fit(dure: Dure, tmp_path: Path) -> None:
    done = in_two_gigabytes(dure, tmp_path, "--anyway")
    told = done.stderr.decode().splitlines()[-1]
    assert told.startswith("dure: the run does not fit into memory: add --checkpointing"), told
    assert done.returncode == 1


def test_without_data_the_option_is_named(dure: Dure, arguments: list[str]) -> None:
    done = dure("tune", arguments[1])
    assert error_line(done.stderr) == "dure: no data: give examples with --data FILE.jsonl"
    assert done.returncode == 2


def test_two_ways_exclude_each_other(dure: Dure, arguments: list[str]) -> None:
    done = dure(*arguments, "--full", "--lora")
    assert error_line(done.stderr) == "dure: --lora and --full exclude each other: give one"
