"""`dure tune --on POD`: against the emulator, with a real sshd, rsync, and runs that outlive their logins.

The examples are written by a function that waits for this test, so that a run is in its midst for sure.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from dure.pods.emulator.machine import LocalMachine
from dure.tune.loop.run import tune_model
from dure.tune.settings import TuneSettings
from tests.support.dure_process import DURE, IN_FRONT
from tests.support.pod_accounts import wait_until
from tests.support.pod_person import Person, a_person
from tests.support.tiny_models import chats, write_lines, write_tiny_model

STEPS, MIDST = 12, 6
POD = ("up", "--template", "workbench", "--name", "w", "--gpu", "4090", "--yes", "--json")
WRITER = '''
import time
from pathlib import Path

def examples(seed, step):
    """Write texts; of a step, once the file says that it may be done."""
    while step >= int(Path({gate!r}).read_text()):
        time.sleep(0.05)
    number = 0
    while True:
        number += 1
        yield {{"text": f"{{seed}} and {{step}} and {{number}} are {{seed + step + number}}"}}
'''


@dataclass
class Work:
    """What is tuned: a folder from which commands are typed, as at home."""

    folder: Path
    gate: Path

    @property
    def words(self) -> list[str]:
        return ["tune", "base", "--data", "writer:examples", "--out", "out", *self.options]

    @property
    def options(self) -> list[str]:
        learning = ["--ctx", "64", "--lr", "3e-3", "--steps", str(STEPS), "--dropout", "0.2"]
        return [*learning, "--threads", "1", "--save-every", "2", "--eval-every", "4"]

    def losses(self, out: str = "out") -> str:
        return (self.folder / out / "losses.jsonl").read_text()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def work(tmp_path: Path, base: Path) -> Work:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "base").symlink_to(base)
    work = Work(folder, tmp_path / "gate")
    work.gate.write_text("1000")
    (folder / "writer.py").write_text(WRITER.format(gate=str(work.gate)))
    return work


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    with a_person(tmp_path) as person:
        yield person


@pytest.fixture
def undisturbed(work: Work, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Return a function that makes the same run in this process and returns its losses."""

    def losses() -> str:
        monkeypatch.chdir(work.folder)
        torch.set_num_threads(1)
        settings = TuneSettings(
            base=Path("base"),
            data=("writer:examples",),
            ctx=64,
            lr=3e-3,
            steps=STEPS,
            dropout=0.2,
            eval_every=4,
        )
        tune_model(settings, Path("alone"), lambda _event: None)
        return work.losses("alone")

    yield losses
    sys.modules.pop("writer", None)


def start(person: Person, work: Work, *words: str) -> subprocess.Popen[str]:
    """Start a command as a shell does, so that Ctrl-C reaches it."""
    return subprocess.Popen(
        [sys.executable, "-c", IN_FRONT, *DURE, *work.words, "--on", "w", "--json", *words],
        cwd=work.folder,
        env=person.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def typed(person: Person, work: Work, *words: str, status: int = 0) -> str:
    """Run a command to its end; return what it prints, or its errors."""
    done = subprocess.run(
        [*DURE, *words],
        cwd=work.folder,
        env=person.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def read_until(process: subprocess.Popen[str], kind: str, **values: Any) -> dict[str, Any]:
    """Read events until one of a kind with these values."""
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == kind and values.items() <= event.items():
            return event
    raise AssertionError(f"{kind} {values} never came: {process.stderr.read()}")


def runs(person: Person) -> list[int]:
    """Return the processes that tune in the newest pod."""
    machine = person.pod.machine
    assert isinstance(machine, LocalMachine)
    return [
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if "work" in (words := one.info["cmdline"] or []) and any(machine.holds(w) for w in words)
    ]


def test_a_run_on_a_pod_comes_home_whole_and_the_pod_is_ended(
    person: Person, work: Work, undisturbed: Callable[[], str]
) -> None:
    """Through a lost line: its losses are those of a run at home, bit by bit."""
    person.dure(*POD)
    work.gate.write_text(str(MIDST))
    process = start(person, work)
    assert read_until(process, "pod")["hourly_usd"] > 0
    read_until(process, "step", step=MIDST)
    came = read_until(process, "checkpoint", step=MIDST)
    assert came["path"] == f"out/checkpoints/step-{MIDST:06}"
    assert (work.folder / came["path"] / "optimizer.pt").exists()
    for child in psutil.Process(process.pid).children(recursive=True):
        if "follow" in " ".join(child.cmdline()):
            child.kill()
    assert "is lost" in read_until(process, "notice")["text"]
    work.gate.write_text("1000")
    done = read_until(process, "finished")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "w was ended" in told
    assert person.pod.status == "TERMINATED"
    assert done["path"] == "out/adapter"
    assert work.losses() == undisturbed()
    theirs, ours = (work.folder / out / "adapter" for out in ("out", "alone"))
    name = "adapter_model.safetensors"
    assert (theirs / name).read_bytes() == (ours / name).read_bytes()
    assert (
        json.loads((theirs / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "base"
    )
    again = typed(person, work, *work.words, "--on", "w")
    assert again.strip() == "out/adapter", "what is here needs no pod"


def test_a_run_outlives_its_command_and_goes_on_at_home_when_its_pod_is_lost(
    person: Person, work: Work, undisturbed: Callable[[], str]
) -> None:
    """Typed again, a command follows the run that is there; nothing is learned twice."""
    person.dure(*POD)
    work.gate.write_text(str(MIDST))
    first = start(person, work)
    read_until(first, "checkpoint", step=MIDST)
    worker = runs(person)
    assert len(worker) == 1
    first.kill()
    first.communicate()
    second = start(person, work)
    read_until(second, "step", step=MIDST)
    assert runs(person) == worker
    machine = person.pod.machine
    assert isinstance(machine, LocalMachine)
    assert machine.work_lines() > 0, "the guard in the pod sees that it works"
    person.server.account.terminate(person.pod.id)
    _, told = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"w is gone; the checkpoint of step {MIDST} is here" in told
    assert runs(person) == []
    work.gate.write_text("1000")
    typed(person, work, *work.words)
    assert work.losses() == undisturbed()


def test_ctrl_c_leaves_the_run_and_its_result_waits_for_home(
    person: Person, work: Work, tmp_path: Path
) -> None:
    """--stop ends it with a checkpoint, which comes home; a pod that knows nothing goes on from that."""
    person.dure(*POD)
    work.gate.write_text(str(MIDST))
    process = start(person, work)
    read_until(process, "step", step=MIDST)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the run goes on in w, for $0.70 an hour" in told
    assert len(runs(person)) == 1
    other = [*work.words, "--on", "w", "--lr", "1e-3"]
    assert "with --lr 0.003, and now it is 0.001" in typed(person, work, *other, status=2)
    process = start(person, work, "--stop")
    read_until(process, "step", step=MIDST)
    work.gate.write_text(str(MIDST + 1))
    read_until(process, "checkpoint", step=MIDST + 1)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert f"stopped after step {MIDST + 1}" in told
    assert person.pod.status == "RUNNING"
    shutil.rmtree(tmp_path / "pod-0" / "workspace" / "dure-tune")  # as another pod has none
    process = start(person, work)
    read_until(process, "resumed", step=MIDST + 1)
    process.kill()
    process.communicate()
    work.gate.write_text("1000")
    machine = person.pod.machine
    assert isinstance(machine, LocalMachine)
    wait_until(lambda: not runs(person), patient_s=300)
    seen = machine.work_lines()
    wait_until(lambda: machine.work_lines() > seen)
    last = typed(person, work, *work.words, "--on", "w", "--json").splitlines()[-1]
    assert json.loads(last)["event"] == "finished"
    assert person.pod.status == "TERMINATED"


def test_nothing_travels_before_the_examples_are_right(person: Person, work: Work) -> None:
    """Nor is anybody asked."""
    lines = [*chats(3), {"text": "of another kind"}]
    write_lines(work.folder / "bad.jsonl", *lines)
    words = ["tune", "base", "--data", "bad.jsonl", "--out", "out", "--on", "w"]
    assert "bad.jsonl line 4" in typed(person, work, *words, status=2)
    assert "--lr 7" in typed(person, work, *work.words, "--lr", "7", "--on", "w", status=2)
    assert person.server.requests == []


def test_a_pod_that_serves_is_no_place_to_tune(person: Person, work: Work) -> None:
    person.dure("up", "--name", "w", "--model", "a/b", "--gpu", "4090", "--yes", "--json")
    told = typed(person, work, *work.words, "--on", "w", status=2)
    assert "w is a serve, which lends no shell to tune in" in told
    assert "--template workbench" in told
