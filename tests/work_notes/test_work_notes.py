"""What is noted of work: real processes note, end and are killed, and others read it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from dure.errors import ResourceError
from dure.processes import Moment, identity_of
from dure.work_notes import (
    GrowingCurve,
    WorkNote,
    WorkState,
    WorkWriter,
    interrupt,
    noted_work,
    noting,
    work_facts,
)
from tests.support.dure_process import Dure, as_json
from tests.support.dure_server import DEMO
from tests.support.long_work import WAIT_S, halted_cut, notes_of, write_400_mb

WORKER = """
import signal, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
else:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
from dure.work_notes import noting
with noting(sys.argv[2], "m.gguf") as work:
    work.begin("writing", 100, "bytes")
    work.reach(40)
    print("within", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where work is noted here."""
    monkeypatch.setenv("DURE_WORK", str(tmp_path / "work"))
    return tmp_path / "work"


@contextmanager
def working(how: str = "", kind: str = "cut") -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that notes some work, which lasts; kill it with the block."""
    process = subprocess.Popen([sys.executable, "-c", WORKER, how, kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"within\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def note(age_s: float, state: WorkState = "done", boot: str | None = None) -> WorkNote:
    """Return a note of this process from some time ago."""
    at = Moment.now().after(-age_s)
    at = at if boot is None else at._replace(boot=boot)
    return WorkNote(
        id="1-a",
        pid=os.getpid(),
        process="another",
        kind="cut",
        name="m",
        begun=at,
        at=at,
        state=state,
    )


def written(place: Path, *notes: WorkNote) -> None:
    place.mkdir(exist_ok=True)
    for number, one in enumerate(notes):
        (place / f"{number}.json").write_bytes(msgspec.json.encode(one))


def test_work_of_another_process_is_seen_until_it_ends() -> None:
    """With its phase and how far it is."""
    with working() as process:
        (found,) = noted_work()
        assert (found.pid, found.kind, found.phase, found.state) == (
            process.pid,
            "cut",
            "writing",
            "running",
        )
        assert (found.total, found.unit) == (100, "bytes")


def test_nobody_else_can_read_a_note(place: Path) -> None:
    """Names of models and files are the user's own."""
    with noting("pull", "qwen3:0.6b"):
        (path,) = place.iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_work_of_a_killed_process_does_not_run() -> None:
    """It has failed, and says so to everybody who asks within the minute."""
    with working() as process:
        process.kill()
        process.wait()
        for _ in range(2):
            (found,) = noted_work()
            assert found.state == "failed"
            assert "killed" in found.error
            assert not work_facts(found)["can_stop"]


def test_a_process_with_the_same_number_is_another_one(place: Path) -> None:
    """This one has the number of the note's; it is not the one that wrote it."""
    written(place, note(5, "running"))
    (found,) = noted_work()
    assert found.state == "failed"
    assert not interrupt(msgspec.structs.replace(found, stop_signal=signal.SIGKILL))


def test_old_notes_are_removed(place: Path) -> None:
    """How work ended is shown for a minute; what ran when the machine was off is no news."""
    written(place, note(30), note(90), note(5, "running", boot="an earlier one"))
    assert len(noted_work()) == 1
    assert len(list(place.iterdir())) == 1


def test_damaged_notes_are_removed(place: Path) -> None:
    place.mkdir()
    (place / "1.json").write_bytes(b"{")
    (place / "2.json").write_bytes(b'{"id": 3}')
    assert noted_work() == []
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("how", ["", "deaf"])
def test_work_is_stopped_in_good_order(how: str) -> None:
    """As by Ctrl-C; in the background, where shells have that ignored, as by SIGTERM."""
    with working(how) as process:
        (found,) = noted_work()
        assert interrupt(found)
        assert process.wait(WAIT_S) != 0
        assert [one.state for one in noted_work()] == ["stopped"]
        assert not interrupt(found), "it is gone"


def test_a_load_is_not_stopped() -> None:
    """It would end what runs the model."""
    with working(kind="load") as process:
        (found,) = noted_work()
        assert not work_facts(found)["can_stop"]
        assert not interrupt(found)
        assert process.poll() is None


def test_an_error_is_noted_with_its_cure() -> None:
    with pytest.raises(ResourceError), noting("import", "m"):
        raise ResourceError("the disk is full", "make room")
    (found,) = noted_work()
    assert (found.state, found.error, found.cure) == ("failed", "the disk is full", "make room")


def test_a_load_that_is_done_is_gone() -> None:
    """A model that runs is no work any more."""
    with noting("load", "m", keeps_done=False):
        assert len(noted_work()) == 1
    assert noted_work() == []


def test_work_goes_on_where_nothing_can_be_noted(place: Path) -> None:
    place.write_text("a file where the folder should be")
    with noting("cut", "m") as work:
        work.begin("writing", 10)
        work.reach(5)
    assert work.note.state == "done"


def test_a_phase_is_told_by_what_is_done_of_it() -> None:
    """What an earlier run has done counts as done, not as speed."""
    work = WorkWriter("pull", "m")
    work.begin("", 1000, "bytes", 600)
    assert (work.note.fraction, work.note.per_s, work.note.rest_s) == (0.6, None, None)
    work.reach(800)
    now = work.note
    assert now.per_s
    assert now.rest_s == pytest.approx(200 / now.per_s)
    work.begin("", None, "bytes")
    assert (work.note.fraction, work.note.rest_s) == (None, None)
    work.end("done")


def test_losses_of_any_number_of_steps_stay_few() -> None:
    """Each point is the mean of as many steps, at the last of them; evaluations are no steps."""
    growing = GrowingCurve()
    for step in range(1, 4):
        growing.learn(step, 1 / step)
    growing.evaluate(3, 0.5)
    assert growing.curve.learned == ((1, 1.0), (2, 0.5), (3, 0.3333))
    for step in range(4, 10_001):
        growing.learn(step, float(step))
    (early, _), *_, (last, loss) = points = growing.curve.learned
    assert 32 <= len(points) <= 64
    assert (early, last) == (256, 10_000)
    assert points[1] == (512, 384.5)
    assert loss == pytest.approx(10_000, rel=0.02)
    assert growing.curve.held_out == ((3, 0.5),)


def test_a_forked_process_does_not_end_the_work_of_its_parent() -> None:
    work = WorkWriter("cut", "m")
    child = os.fork()
    if not child:
        work.end("failed")
        os._exit(0)
    os.waitpid(child, 0)
    assert [one.state for one in noted_work()] == ["running"]
    work.end("done")


# ---------------------------------------------------------------- of commands


def test_ps_shows_a_cut_while_it_runs(tmp_path: Path) -> None:
    """As a row, and as JSON; when it was stopped and goes on, it is done. A second command sees it too."""
    dure = Dure(tmp_path / "cache")
    model = write_400_mb(tmp_path / "large.gguf")
    with halted_cut(dure, model, tmp_path / "shards") as process:
        (work,) = as_json(dure("ps", "--json"))["work"]
        assert (work["kind"], work["name"], work["pid"]) == ("cut", "large.gguf", process.pid)
        assert 0 < work["fraction"] < 1
        assert work["unit"] == "bytes"
        assert work["can_stop"]
        assert "large.gguf" in dure("ps").stdout
        (found,) = notes_of(dure)
        assert interrupt(found)
        process.send_signal(signal.SIGCONT)
        assert process.wait(WAIT_S) == 130
        assert [one.state for one in notes_of(dure)] == ["stopped"]
    assert list((tmp_path / "shards").glob("*.gguf")) == []


def test_commands_note_their_work(tmp_path: Path) -> None:
    """How a quantizing and a bench ended, and why a pull failed; a run has loaded, and is no work."""
    dure = Dure(tmp_path / "cache")
    dure.environment["DURE_MODELS"] = str(tmp_path / "models")
    out = tmp_path / "small.gguf"
    done = dure("quantize", DEMO, "--type", "q8_0", "--out", out, "--no-verify")
    assert done.returncode == 0, done.stderr
    address = "http://user:secret@127.0.0.1:9/x.gguf?token=secret"
    assert dure("pull", address, "--tries", 1).returncode == 1
    assert dure("bench", DEMO, "-p", 4, "-n", 4, "--repeat", 1).returncode == 0
    assert dure("run", DEMO, "Hello", "-n", 2, "--ranks", 2).returncode == 0
    bench, pull, quantized = notes_of(dure)
    assert (bench.kind, bench.name, bench.state) == ("bench", DEMO.name, "done")
    assert (quantized.kind, quantized.phase, quantized.state) == ("quantize", "writing", "done")
    assert (pull.kind, pull.state, pull.name) == ("pull", "failed", "http://127.0.0.1:9/x.gguf")
    assert pull.error
    assert "secret" not in json.dumps(work_facts(pull))
    assert identity_of(pull.pid) == ""
