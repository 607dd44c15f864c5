"""The run itself in a pod: a process of its own session, which outlives every login.

It writes its events to a file, and lets the guard in the pod know that work is done. When it has ended, it
keeps the pod until what it made is at home, or its time to wait is over. Refuses to know who looks on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dure.errors import DureError, UsageError
from dure.tune.base import fingerprint_of
from dure.tune.loop.events import Notice, TuneEvent, event_data
from dure.tune.loop.folder import BASE_CONTENT
from dure.tune.pod.job import CODE, PodJob, WorkFolder, busy_file, renamed_in, settings_from

__all__ = ["ENDED", "hold", "plan", "work"]

ENDED = "ended"
"""The event with which a start is over: an error, a step after which it was stopped, or neither."""
_TICK_S = 2.0
_BUSY = 0.05  # of a processor: what does less hangs


def work(folder: WorkFolder, lock: int) -> None:
    """Do the run of a folder, then keep the pod for what was made. lock: the descriptor that holds it."""
    job = folder.read()
    assert job is not None, "it was written before this process was started"
    os.chdir(folder.root)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threading.Thread(target=_show_work, daemon=True).start()
    with folder.events(job.attempt).open("a") as file:

        def tell(event: dict[str, Any]) -> None:
            file.write(json.dumps(event) + "\n")
            file.flush()
            _mark()

        tell(_outcome(job, folder, tell, stopping.is_set))
    os.close(lock)
    program = [sys.executable, "-P", "-m", "dure.tune.pod.inside", "hold", str(folder.root)]
    os.execv(sys.executable, program)  # noqa: S606 - our own; the model's memory is free then


def hold(folder: WorkFolder) -> None:
    """Keep the pod from being idle until what the last start has made is at home, or its time is over."""
    job = folder.read()
    if job is None or not (folder.has_result or folder.whole_steps()):
        return
    over = time.monotonic() + job.hold_s
    while time.monotonic() < over and not folder.fetched(job.attempt).exists():
        now = folder.read()
        if now is None or now.attempt != job.attempt:
            return
        _mark()
        time.sleep(_TICK_S)


def _outcome(
    job: PodJob,
    folder: WorkFolder,
    tell: Callable[[dict[str, Any]], None],
    is_stopped: Callable[[], bool],
) -> dict[str, Any]:
    """Do the run; return the event that ends it."""
    from dure.tune.loop.training import Stopped

    try:
        _run(job, folder, lambda event: tell(event_data(event)), is_stopped)
    except Stopped as stopped:
        return {"event": ENDED, "stopped": stopped.step, "error": None}
    except DureError as error:
        return {"event": ENDED, "stopped": None, "error": asdict(error.record())}
    except BaseException as error:
        traceback.print_exc()
        what = {"kind": "EngineError", "problem": f"the run ended: {error!r}", "cure": ""}
        return {"event": ENDED, "stopped": None, "error": what}
    return {"event": ENDED, "stopped": None, "error": None}


def _run(
    job: PodJob,
    folder: WorkFolder,
    observer: Callable[[TuneEvent], None],
    is_stopped: Callable[[], bool],
) -> None:
    from dure.tune.estimate.plan import check_memory
    from dure.tune.loop.run import tune_model

    settings, names = _ready(job, observer)
    with ExitStack() as stack:
        observers = [observer]
        if job.tensorboard:
            from dure.tune.loop.tensorboard import event_files

            observers.append(stack.enter_context(event_files(folder.out / "tensorboard")))

        def tell(event: TuneEvent) -> None:
            for one in observers:
                one(event)

        tune_model(
            settings,
            folder.out,
            tell,
            save_every=job.save_every,
            restart=job.restart,
            check=None if job.anyway else check_memory,
            is_stopped=is_stopped,
            names=names,
        )
    if job.hub_base:
        hub = job.hub_base.removeprefix("hf:").partition(":")[0].partition("@")[0]
        for result in (folder.out / "adapter", folder.out / "model"):
            renamed_in(result, {str(settings.base): hub})


def plan(job: PodJob, root: Path) -> dict[str, Any]:
    """Return what a run would be on this pod, as data. Raises DureError."""
    from dure.tune.estimate.plan import plan_of

    threading.Thread(target=_show_work, daemon=True).start()
    settings, _ = _ready(job, lambda _event: None)
    return asdict(plan_of(settings, root.parent / "measured"))


def _ready(job: PodJob, observer: Callable[[TuneEvent], None]) -> tuple[Any, dict[str, str]]:
    """Return the settings with a base that is here, and the names of home. Raises DureError."""
    import torch

    from dure.hardware.probe import probe

    torch.set_num_threads(job.threads or probe().cores)
    sys.path.insert(0, str(Path(CODE).absolute()))
    settings, names = settings_from(job.settings), dict(job.names)
    if job.hub_base:
        from dure.tune.pod.fetching import fetched

        base = fetched(job, lambda text: observer(Notice(text)))
        names[str(base)] = job.names.get(str(settings.base), str(settings.base))
        settings = replace(settings, base=base)
        _check_base(job, base)
    return settings, names


def _check_base(job: PodJob, base: Path) -> None:
    """Raise UsageError if the hub has another model than the one at home."""
    wanted = job.identity.get(BASE_CONTENT)
    if wanted is not None and wanted != fingerprint_of(base):
        raise UsageError(
            f"{job.hub_base} is another model at its place than at home",
            "give the path of the one at home, which is copied then, or pull it again",
        )


# ---------------------------------------------------------------- the guard in the pod


def _mark() -> None:
    """Let the guard know that work is done."""
    with suppress(OSError), busy_file().open("a") as file:
        file.write(".")


def _show_work() -> None:
    """Mark work as long as this process computes: one that hangs is idle."""
    before = time.process_time()
    while True:
        time.sleep(_TICK_S)
        now = time.process_time()
        if now - before > _BUSY * _TICK_S:
            _mark()
        before = now
