"""What home says to a pod over ssh, a program in the pod: `python -m dure.tune.pod.inside WORD ROOT`.

Every answer is a line of JSON. Whatever takes long is done by `worker`. Light: it is started often.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from dure.errors import DureError
from dure.tune.loop.journal import LOSSES
from dure.tune.pod.job import GIVEN, PodJob, WorkFolder, busy_file, step_folder, steps_of

__all__ = ["REFUSED"]

REFUSED = 3
"""The exit status of an answer that is one of dure's errors."""
_SILENT_S = 120.0  # without a heartbeat, whoever follows has gone
_LOOKS_S = 0.1
_LAST_LINES = 5
_SAID = "said.json"


def _state(folder: WorkFolder) -> dict[str, Any]:
    """Return how a run stands, and which other run this pod has."""
    for made in (folder.root / GIVEN, folder.brought, folder.out):
        made.mkdir(parents=True, exist_ok=True)
    job, steps = folder.read(), folder.whole_steps()
    others = [WorkFolder(path.parent) for path in folder.root.parent.glob("*/running")]
    busy = next((one for one in others if one.root != folder.root and one.is_running), None)
    return {
        "running": folder.is_running,
        "attempt": job.attempt if job else "",
        "identity": job.identity if job else {},
        "step": steps[-1] if steps else 0,
        "ended": folder.has_result,
        "fetched": bool(job and folder.fetched(job.attempt).exists()),
        "other": busy.root.name if busy else "",
        "cores": os.cpu_count(),
    }


def _start(folder: WorkFolder) -> dict[str, Any]:
    """Start the run of the job on the input, unless one runs. It has a session of its own."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=PodJob)
    held = _held(folder)
    if held is None:
        return {"started": False}
    if job.restart:
        shutil.rmtree(folder.out, ignore_errors=True)
    shutil.rmtree(folder.taking, ignore_errors=True)
    _go_on_from_home(folder)
    folder.write(job)
    for old in (*folder.root.glob("events-*.jsonl"), *folder.root.glob("fetched-*")):
        old.unlink()
    folder.events(job.attempt).touch()
    program = [sys.executable, "-P", "-m", "dure.tune.pod.inside"]
    with folder.log.open("ab") as log:
        process = subprocess.Popen(
            [*program, "work", str(folder.root), str(held)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[held],
        )
    (folder.root / "pid").write_text(str(process.pid))
    return {"started": True}


def _held(folder: WorkFolder) -> int | None:
    """Return the lock; who only looks whether a run goes on holds it for a moment."""
    for _ in range(10):
        if (held := folder.lock()) is not None:
            return held
        time.sleep(_LOOKS_S)
    return None


def _go_on_from_home(folder: WorkFolder) -> None:
    """Put the checkpoint that came from home where the run looks for it, if it is a newer one."""
    here, there = folder.out / "checkpoints", folder.brought / "checkpoints"
    steps = steps_of(there)
    if steps and steps[-1] > max(steps_of(here), default=0):
        shutil.rmtree(here, ignore_errors=True)
        folder.out.mkdir(parents=True, exist_ok=True)
        there.rename(here)
        for name in ("run.json", LOSSES):
            with suppress(FileNotFoundError):
                (folder.brought / name).replace(folder.out / name)
    shutil.rmtree(folder.brought, ignore_errors=True)


def _stop(folder: WorkFolder) -> dict[str, Any]:
    """Have the run write a checkpoint and end."""
    if folder.is_running and folder.pid:
        with suppress(ProcessLookupError):
            os.kill(folder.pid, signal.SIGTERM)
    return {"running": folder.is_running}


def _fetched(folder: WorkFolder) -> dict[str, Any]:
    """Note that all of the last start is at home, so that the pod may be idle."""
    if job := folder.read():
        folder.fetched(job.attempt).touch()
    shutil.rmtree(folder.taking, ignore_errors=True)
    return {}


# ---------------------------------------------------------------- following


def _follow(folder: WorkFolder, attempt: str, line: int) -> None:
    """Print the events of a start from a line on, until it is over or nobody listens."""
    threading.Thread(target=_hear, daemon=True).start()
    with folder.events(attempt).open() as file:
        for _ in range(line):
            file.readline()
        for text in _whole_lines(file.readline, lambda: folder.is_running):
            sys.stdout.write(text)
            sys.stdout.flush()
            if text.startswith('{"event": "ended"'):
                return
    said = {"event": "ended", "stopped": None, "error": _killed(folder)}
    sys.stdout.write(json.dumps(said) + "\n")


def _whole_lines(readline: Callable[[], str], is_running: Callable[[], bool]) -> Iterator[str]:
    """Yield lines as they come, until the process that writes them is gone and has left none."""
    begun, lives = "", True
    while True:
        begun += readline()
        if begun.endswith("\n"):
            yield begun
            begun = ""
        elif not lives:
            return
        else:
            lives = is_running()
            if lives:
                time.sleep(_LOOKS_S)


def _killed(folder: WorkFolder) -> dict[str, str]:
    """Return the error of a run that has said nothing of its end."""
    last = folder.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    said = f"; it wrote last: {' / '.join(last)}" if last else ""
    return {
        "kind": "EngineError",
        "problem": f"the run was killed in the pod{said}",
        "cure": "give the same command again: it goes on from the last checkpoint",
    }


def _hear() -> None:
    """Pass heartbeats on to the guard; end when none come."""
    heard = [time.monotonic()]

    def watch() -> None:
        while time.monotonic() - heard[0] < _SILENT_S:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    for _ in sys.stdin:
        heard[0] = time.monotonic()
        with suppress(OSError):
            busy_file().with_name("heartbeat").write_text(f"{time.time():.0f}\n")
    os._exit(0)


# ---------------------------------------------------------------- what goes home


def _take(folder: WorkFolder, at_home: int) -> dict[str, Any]:
    """Keep the newest checkpoint, newer than that of home, and the best: the run may delete its own.

    They are links, so they take no room. What was begun goes on. Says which steps they are of.
    """
    with suppress(OSError, ValueError):
        begun: dict[str, Any] = json.loads((folder.taking / _SAID).read_text())
        if begun["step"] > at_home:
            return begun
    for _ in range(20):
        steps = folder.whole_steps()
        if not steps or steps[-1] <= at_home:
            return {"step": 0}
        with suppress(FileNotFoundError):  # the run has just deleted it for a newer one
            return _linked(folder, steps[-1])
        time.sleep(_LOOKS_S)
    return {"step": 0}


def _linked(folder: WorkFolder, step: int) -> dict[str, Any]:
    here = folder.out / "checkpoints"
    progress = json.loads((step_folder(here, step) / "progress.json").read_text())
    best = progress["best_step"]
    shutil.rmtree(folder.taking, ignore_errors=True)
    for one in {step, best} - {None}:
        target = step_folder(folder.taking, one)
        target.mkdir(parents=True)
        for file in step_folder(here, one).iterdir():
            if one == step or file.name != "optimizer.pt":
                _link(file, target / file.name)
    said = {"step": step, "best": best}
    (folder.taking / _SAID).write_text(json.dumps(said))
    return said


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except FileNotFoundError:
        raise
    except OSError:  # a volume without links
        shutil.copyfile(file, target)


# ---------------------------------------------------------------- the program


def _plan(folder: WorkFolder) -> dict[str, Any]:
    from dure.tune.pod.worker import plan

    job = msgspec.json.decode(sys.stdin.buffer.read(), type=PodJob)
    os.chdir(folder.root)
    return plan(job, folder.root)


def _main(word: str, root: str, *more: str) -> int:
    folder = WorkFolder(Path(root))
    if word == "follow":
        _follow(folder, more[0], int(more[1]))
        return 0
    if word in {"work", "hold"}:
        from dure.tune.pod import worker

        if word == "work":
            worker.work(folder, int(more[0]))
        else:
            worker.hold(folder)
        return 0
    answers: dict[str, Callable[[], dict[str, Any]]] = {
        "state": lambda: _state(folder),
        "start": lambda: _start(folder),
        "stop": lambda: _stop(folder),
        "fetched": lambda: _fetched(folder),
        "take": lambda: _take(folder, int(more[0])),
        "plan": lambda: _plan(folder),
    }
    try:
        said, status = answers[word](), 0
    except DureError as error:
        said, status = {"error": asdict(error.record())}, REFUSED
    sys.stdout.write(json.dumps(said) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
