"""`dure tune` in two processes, as on two GPUs: here both compute on the processor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from dure.errors import EngineError, UsageError
from dure.tune.loop.events import Notice, TuneEvent
from dure.tune.loop.run import tune_model
from dure.tune.peers.group import Peers
from dure.tune.peers.starting import run_together
from dure.tune.settings import TuneSettings
from tests.support.dure_process import IN_FRONT, Dure, error_line
from tests.support.tiny_models import chats, write_lines, write_tiny_model
from tests.support.two_learners import FULL, LORA, STEPS

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "dure")
STARTED = """
import sys
from dure.cli.terminal.stop_signals import StopSignals
from dure.tune.peers.starting import run_together
with StopSignals() as stop:
    words = [sys.executable, "-m", "dure", *sys.argv[1:]]
    sys.exit(run_together(words, 2, lambda: stop.number))
"""
OPTIONS = ["--ctx", "128", "--lr", "3e-3", "--steps", "400", "--threads", "1", "--accumulate", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, data, and what two processes have made of them."""
    folder = tmp_path_factory.mktemp("several")
    write_tiny_model(folder / "base")
    write_lines(folder / "chats.jsonl", *chats(60))
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> list[dict[str, Any]]:
    """Return what each of two processes has told of all that they did together."""
    words = [sys.executable, "-m", "tests.support.two_learners"]
    before = Path.cwd()
    os.environ["PYTHONPATH"] = str(ROOT)
    os.chdir(folder)
    try:
        assert run_together(words, 2, lambda: 0) == 0
    finally:
        os.chdir(before)
        del os.environ["PYTHONPATH"]
    return [json.loads((folder / f"told-{number}.json").read_text()) for number in (0, 1)]


pytestmark = pytest.mark.usefixtures("one_thread")


def placed(settings: TuneSettings, folder: Path) -> TuneSettings:
    """Return settings as if they were given elsewhere than in the folder."""
    return replace(settings, base=folder / "base", data=(str(folder / "chats.jsonl"),))


def journal(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("settings", "name"),
    [(FULL, "full"), (LORA, "lora"), (replace(FULL, batch=6, accumulate=1), "less")],
)
def test_two_processes_learn_what_one_does(
    settings: TuneSettings,
    name: str,
    folder: Path,
    told: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Losses, norms before clipping and evaluations, though one has three of the five rows of a step."""
    tune_model(placed(settings, folder), tmp_path, lambda _: None)
    for one, other in zip(journal(tmp_path), journal(folder / name), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_the_first_process_alone_tells_what_happens(told: list[dict[str, Any]]) -> None:
    assert [(one["full"], one["lora"]) for one in told] == [(STEPS, STEPS), (0, 0)]


def test_the_result_is_whole(folder: Path, told: list[dict[str, Any]]) -> None:
    """Of a model that was divided: as transformers reads it, and of its own class and type."""
    kept = torch.load(folder / f"full/checkpoints/step-{STEPS:06}/weights.pt")
    model = AutoModelForCausalLM.from_pretrained(folder / "full/model")
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in kept.items())
    config, base = (
        json.loads((path / "config.json").read_text())
        for path in (folder / "full/model", folder / "base")
    )
    assert (config["architectures"], config["dtype"]) == (base["architectures"], base["dtype"])


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_stopped_run_goes_on_with_the_same_losses(
    name: str, folder: Path, told: list[dict[str, Any]]
) -> None:
    """Bit by bit, with dropout, though only the second process was told to stop."""
    assert [one[f"{name} stopped"] for one in told] == [2, 2]
    assert journal(folder / f"{name}-parts") == journal(folder / f"{name}-whole")


def test_each_process_keeps_its_part_of_the_optimizers_state(
    folder: Path, told: list[dict[str, Any]]
) -> None:
    step = folder / f"full/checkpoints/step-{STEPS:06}"
    parts = [
        torch.load(step / name)["state"][0]["exp_avg"].shape[0]
        for name in ("optimizer.pt", "optimizer-1.pt")
    ]
    assert parts == [130, 129]  # rows of the embedding
    assert not (folder / f"lora/checkpoints/step-{STEPS:06}/optimizer-1.pt").exists()
    losses = [line["loss"] for line in journal(folder / "bytes") if "loss" in line]
    assert losses[-1] < 0.95 * losses[0], "parts in 8 bits learn too"


def test_another_number_of_processes_is_told_and_refused_where_parts_would_not_fit(
    folder: Path, told: list[dict[str, Any]]
) -> None:
    seen: list[TuneEvent] = []
    for name in ("full", "lora"):
        facts = json.loads((folder / name / "run.json").read_text())
        del facts["result"]  # as if it had been killed before the end
        facts["settings"]["BASE"] = str(folder / "base")
        facts["settings"]["--data"] = [str(folder / "chats.jsonl")]
        (folder / name / "run.json").write_text(json.dumps(facts))
    with pytest.raises(
        UsageError,
        match=r"begun on 2 processes, which divided.*now it is 1 process: use 2 processes again",
    ):
        tune_model(placed(FULL, folder), folder / "full", seen.append)
    tune_model(placed(LORA, folder), folder / "lora", seen.append)
    notices = [one.text for one in seen if isinstance(one, Notice)]
    assert "by 2 processes with 1 threads" in notices[0]
    assert "the same but for rounding" in notices[0]


def test_a_run_that_has_ended_is_not_begun_again(told: list[dict[str, Any]]) -> None:
    assert "has ended already" in told[0]["again"][0]
    assert told[1]["again"] == []


def test_too_few_rows_for_the_processes_are_refused(folder: Path, tmp_path: Path) -> None:
    few = replace(placed(LORA, folder), accumulate=1)
    with pytest.raises(UsageError, match="are fewer rows than 2 processes: use --accumulate 2"):
        tune_model(few, tmp_path, lambda _: None, peers=Peers(0, 2))


@pytest.mark.parametrize("overlap", [False, True])
def test_the_optimizer_computes_the_parts_of_parameters_that_fsdp_divides(
    overlap: bool, told: list[dict[str, Any]]
) -> None:
    """As torch's AdamW computes whole ones, clipped by the norm of all parts; some parts are empty."""
    for one in told:
        found = one["beside"][overlap]
        assert found["furthest"] <= 1e-5
        assert found["norms"] == pytest.approx(found["wanted"], rel=1e-5)
    assert sum(one["beside"][overlap]["held"] for one in told) < 1.1 * 2 * (7 * 33 + 4 * 33 + 1)
    assert min(found["wanted"]) < 0.5 < max(found["wanted"])


def test_parts_of_an_optimizer_go_on_with_the_same_bits(told: list[dict[str, Any]]) -> None:
    for one in told:
        assert one["resumed"] == {"fp32": True, "bf16": True, "8bit": True}


def test_what_cannot_be_divided_is_refused_by_name(told: list[dict[str, Any]]) -> None:
    for one in told:
        assert "is a sum that its processes have not computed yet" in one["refused"][0]
        assert "layers choose among modules of their own" in one["refused"][2]


def test_a_step_that_one_process_cannot_make_is_made_by_none(told: list[dict[str, Any]]) -> None:
    """The others do not wait for it: their norm is no number."""
    assert told[0]["refused"][1] == "1 step left out, with a norm of nan"
    assert "its gradient lies as (Partial(sum),)" in told[1]["refused"][1]


@pytest.fixture
def dure(tmp_path: Path) -> Dure:
    return Dure(tmp_path / "cache")


def command(folder: Path, out: Path) -> list[str]:
    names = ["tune", str(folder / "base"), "--data", str(folder / "chats.jsonl"), "--out", str(out)]
    return [*names, "--full", *OPTIONS, "--save-every", "2", "--json"]


def steps_seen(process: subprocess.Popen[bytes], n: int) -> None:
    """Read until the first process has told of some steps."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= n:
            return
    raise AssertionError("it ended before")


def test_a_process_that_dies_ends_all_with_the_last_checkpoint_whole(
    dure: Dure, folder: Path, tmp_path: Path
) -> None:
    """As torchrun starts them."""
    with subprocess.Popen(
        [*TORCHRUN, *command(folder, tmp_path / "out")],
        env=dure.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        steps_seen(process, 4)
        children = psutil.Process(process.pid).children()
        second = next(one for one in children if one.environ()["RANK"] == "1")
        second.kill()
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    ours = [line for line in errors.decode().splitlines() if line.startswith("dure:")]
    assert len(ours) == 1, errors.decode()
    assert ours[0].startswith("dure: another process of this run has ended: look for its error")
    assert dure.left_behind() == []
    (last,) = (tmp_path / "out/checkpoints").iterdir()
    assert {one.name for one in last.iterdir()} == {
        *("optimizer.pt", "optimizer-1.pt", "progress.json", "weights.pt")
    }


def test_ctrl_c_reaches_all_processes_once_and_a_death_is_told_by_its_signal(
    dure: Dure, folder: Path, tmp_path: Path
) -> None:
    """As `--gpus` starts them; the second time the run goes on, and loses a process."""
    started = [sys.executable, "-c", STARTED, *command(folder, tmp_path / "out")]
    words = [sys.executable, "-c", IN_FRONT, *started]
    with subprocess.Popen(
        words, env=dure.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        steps_seen(process, 3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors.decode()
    assert errors.decode().count("the same command goes on from there") == 1
    stopped = int(errors.decode().split("after step ")[1].split(",")[0])
    assert (tmp_path / f"out/checkpoints/step-{stopped:06}/progress.json").exists()
    with subprocess.Popen(
        words, env=dure.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        steps_seen(process, stopped + 2)
        second = next(
            one for one in psutil.Process(process.pid).children() if one.environ()["RANK"] == "1"
        )
        second.kill()
        _, errors = process.communicate(timeout=120)
    assert EngineError.__name__ in errors.decode()  # the command line tells it as any error
    assert "process 2 of 2 was ended by SIGKILL: look whether memory ran out" in errors.decode()
    assert dure.left_behind() == []


def test_more_gpus_than_there_are_is_refused(dure: Dure, folder: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() > 1:
        pytest.skip("this machine has two GPUs")
    done = dure(*command(folder, tmp_path / "out"), "--gpus", "9")
    assert error_line(done.stderr).startswith("dure: --gpus 9: torch finds")
    assert done.returncode == 2
