"""`dure tune --on POD`: asks what has to be asked, says what is copied and what it costs, and follows.

What may take hours goes on in the pod, whatever becomes of this process. Refuses to know how.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import typer

from dure.cli.terminal.console import (
    errors,
    print_json,
    print_warning,
    printable,
    progress_bar,
)
from dure.cli.terminal.pod_account import PodAccount, opened
from dure.cli.terminal.pod_options import ask, tell
from dure.cli.terminal.pod_tables import end_text
from dure.cli.terminal.quantities import seconds_of
from dure.cli.terminal.stop_signals import StopSignals
from dure.cli.terminal.tune_plan_report import PlanOptions, plan_data, print_plan
from dure.cli.terminal.tune_pod_options import PodBase, PodRunOptions
from dure.errors import DureError, UsageError
from dure.pods.hub_token import token_for
from dure.pods.ledger import Entry
from dure.pods.timer import guard_is_armed
from dure.sizes import bytes_text, compared
from dure.tune.estimate.estimates import MemoryEstimate, Room, TunePlan
from dure.tune.loop.events import Notice, Observer, RunEnded
from dure.tune.loop.folder import RunFolder, check_same, identity_of
from dure.tune.loop.journal import LOSSES
from dure.tune.pod.code import PodFacts
from dure.tune.pod.following import Following, PodRunEnd
from dure.tune.pod.gathering import Luggage, check_data, luggage_of
from dure.tune.pod.homing import bring_checkpoint, bring_result
from dure.tune.pod.job import PodJob, step_folder, steps_of
from dure.tune.pod.line import LostLineError, PodLine
from dure.tune.pod.preparing import found_line, ready_line, tuning_pod
from dure.tune.settings import TuneSettings

__all__ = ["PodRun", "plan_on_pod", "tuned_on_pod"]

_PAUSES_S = (2.0, 5.0, 15.0, 30.0)  # between tries to copy


@dataclass(frozen=True)
class PodRun:
    """A run that is wanted on a pod. out: its folder here. The rest is as it was given."""

    settings: TuneSettings
    base: PodBase
    out: Path
    options: PodRunOptions
    save_every: int | None
    threads: int | None
    tensorboard: bool
    restart: bool
    anyway: bool
    as_json: bool

    @property
    def pod(self) -> str:
        """The name of the pod."""
        assert self.options.on is not None, "it was asked for"
        return self.options.on

    @property
    def hold_s(self) -> int:
        """How long the result waits there. Raises UsageError."""
        return int(seconds_of("--hold", self.options.hold))

    def identity(self) -> dict[str, Any]:
        """Return what tells this run from others. Raises UsageError."""
        return identity_of(self.settings, {}, base_is_here=self.base.is_here)

    def luggage(self, *, weights: bool = True) -> Luggage:
        """Return what travels. Raises UsageError."""
        return luggage_of(self.settings, base_is_here=not self.base.hub, weights=weights)

    def job(self, luggage: Luggage) -> PodJob:
        """Return what the pod is asked for."""
        base = {str(self.base.path): str(self.base.path)} if self.base.hub else {}
        return PodJob(
            attempt=secrets.token_hex(4),
            settings=luggage.settings.plain(),
            names={**luggage.names, **base},
            identity=self.identity(),
            hub_base=self.base.hub,
            hub=os.environ.get("HF_ENDPOINT", ""),
            save_every=self.save_every,
            threads=self.threads,
            tensorboard=self.tensorboard,
            restart=self.restart,
            anyway=self.anyway,
            hold_s=self.hold_s,
        )


# ---------------------------------------------------------------- the plan


def plan_on_pod(run: PodRun, options: PlanOptions) -> None:
    """Print what a run would be on the pod, and what it would cost there. Raises DureError."""
    check_data(run.settings)
    luggage = run.luggage(weights=False)
    with opened() as here:
        entry = tuning_pod(here, run.pod)
        if not run.as_json:
            _tell_costs(run, here, entry, luggage)
        line, facts = _ready(run, here, entry)
        state = line.ask("state")
        _check_idle(run, {**state, "other": state["other"] or (state["running"] and run.out)})
        _hand_token(run, here, entry)
        _copy(run, line, facts, luggage)
        said = line.ask("plan", given=msgspec.json.encode(run.job(luggage)))
    memory, notes = MemoryEstimate(**said.pop("memory")), tuple(said.pop("notes"))
    rooms = tuple(Room(**room) for room in said.pop("rooms"))
    plan = TunePlan(**said, memory=memory, notes=notes, rooms=rooms)
    if options.hour_price is None:
        options = replace(options, hour_price=entry.hourly.dollars)
    if run.as_json:
        told = {"pod": run.pod, "hourly_usd": entry.hourly.dollars, "bytes": luggage.size_bytes}
        print_json({**plan_data(plan, options), **told})
    else:
        print_plan(plan, options, f"on {run.pod}")


# ---------------------------------------------------------------- the run


def tuned_on_pod(run: PodRun, showing: Callable[[], AbstractContextManager[Observer]]) -> RunEnded:
    """Tune on the pod, or follow the run that is there; return what came home. Raises DureError.

    showing: opens what is told of events. Leaves the command if whoever follows does.
    """
    n_examples, luggage = check_data(run.settings), run.luggage()
    folder = RunFolder(run.out)
    with folder.locked():
        facts = {} if run.restart else folder.read()
        if facts:
            check_same(facts["settings"], run.identity(), run.out)
        if "result" in facts and Path(facts["result"]["path"]).exists():
            with showing() as observer:
                observer(Notice("this run has ended already: --restart begins it anew"))
            _let_go(run)
            return _ended(facts["result"])
        with opened() as here:
            entry = tuning_pod(here, run.pod)
            if not run.as_json and n_examples:
                tell(f"{n_examples:,} examples are well-formed")
            return _on(run, here, entry, luggage, showing)


def _on(
    run: PodRun,
    here: PodAccount,
    entry: Entry,
    luggage: Luggage,
    showing: Callable[[], AbstractContextManager[Observer]],
) -> RunEnded:
    _tell_costs(run, here, entry, luggage)
    with _saying_how_to_go_on(run):
        line, attempt = _begun(run, here, entry, luggage)
    with StopSignals() as signals, showing() as observer:
        following = Following(here, line, run.out, luggage.names, observer, signals.came)
        end, result = PodRunEnd(), None
        if attempt:
            end = following.until_the_end(attempt)
        if end.is_early:
            while saved := following.bring(lambda: bring_checkpoint(line, run.out)):
                observer(saved)  # one that was begun before, and then the last
        elif not end.detached:
            result = following.bring(lambda: bring_result(line, run.out, luggage.names))
        if result is not None:
            observer(_ended(result))
    if result is None:
        _tell_end(run, here, line, end, signals.number)
        raise typer.Exit(128 + signals.number)
    _leave(run, here, line)
    return _ended(result)


def _let_go(run: PodRun) -> None:
    """End the pod of a run whose result is here, if the command that brought it could not."""
    with suppress(DureError), opened() as here:
        line = found_line(here, tuning_pod(here, run.pod), run.out)
        state = line.ask("state") if line else {"ended": False}
        if line and state["ended"] and not state["fetched"]:  # else it was kept
            _leave(run, here, line)


def _begun(run: PodRun, here: PodAccount, entry: Entry, luggage: Luggage) -> tuple[PodLine, str]:
    """Return the line to a run that goes on, and the name of its start; "" if it has ended already.

    It is started unless it is there. Raises UsageError if another is there, PodError.
    """
    line, facts = _ready(run, here, entry)
    state = line.ask("state")
    _check_idle(run, state)
    if run.restart and state["running"]:
        raise UsageError(
            f"the run of {run.out} goes on in {run.pod}",
            "end it first: the same command with --stop, and without --restart",
        )
    has_ended = state["ended"] and not run.restart
    if state["running"] or has_ended:
        check_same(state["identity"], run.identity(), f"the run on {run.pod}")
    if run.options.stop and not has_ended:
        _stop(run, line, state)
    if state["running"] or has_ended:
        return line, state["attempt"] if state["running"] else ""
    if run.restart:
        RunFolder(run.out).clear()
    return line, _started(run, here, line, facts, luggage, state)


def _tell_end(
    run: PodRun, here: PodAccount, line: PodLine, end: PodRunEnd, signal_number: int
) -> None:
    """Say what goes on of a run without a result here. Raises its error, or leaves if it was stopped."""
    name, entry = run.pod, here.ledger.named(run.pod)
    if not end.is_early:
        told = end_text(entry, home_is_armed=guard_is_armed(here.ledger))
        what = "the run goes on" if end.detached else "the result waits"
        tell(f"{what} in {name}, for {entry.hourly} an hour; {name} {told}")
        also = "; with --stop it ends with a checkpoint" if end.detached else ""
        tell(f"the same command goes on with it{also}")
        return
    if not signal_number:
        _be_idle(line)
    tell(f"{name} is kept, for {entry.hourly} an hour: `dure pod rm {name}` ends it")
    if end.error is not None:
        raise end.error
    tell(f"stopped after step {end.stopped:,}: the same command goes on from there")
    raise typer.Exit(0 if run.options.stop else 1)


def _be_idle(line: PodLine) -> None:
    """Let the pod know that all is here; one that is not reached finds out by its limits."""
    with suppress(DureError):
        line.ask("fetched")


def _ended(result: dict[str, Any]) -> RunEnded:
    return RunEnded(**{**result, "path": Path(result["path"])})


def _leave(run: PodRun, here: PodAccount, line: PodLine) -> None:
    """Let the pod be idle, and end it unless it should be kept."""
    _be_idle(line)
    entry = here.ledger.named(run.pod)
    if run.options.keep:
        tell(f"{run.pod} is kept, for {entry.hourly} an hour: `dure pod rm {run.pod}` ends it")
        return
    try:
        entry = here.lives.end(entry, "its tuning is done, and the result is home")
    except DureError as error:
        print_warning(f"the result is here, and {error}")
        return
    here.ssh.write_entries(here.ledger.living())
    tell(f"the result is here, so {run.pod} was ended; it cost {entry.spent}")


# ---------------------------------------------------------------- before the run


def _tell_costs(run: PodRun, here: PodAccount, entry: Entry, luggage: Luggage) -> None:
    """Say what will be copied, and what the pod costs."""
    size, n = luggage.size_bytes, len(luggage.files)
    if run.as_json:
        told = {"pod": entry.name, "files": n, "bytes": size, "fetches": run.base.hub or None}
        print_json({"event": "pod", **told, "hourly_usd": entry.hourly.dollars}, in_a_line=True)
        return
    fetches = f", and {run.base.hub} is fetched there" if run.base.hub else ""
    tell(f"to {entry.name}: {n} file{'s' * (n != 1)}, {bytes_text(size)}{fetches}")
    ends = end_text(entry, home_is_armed=guard_is_armed(here.ledger))
    after = "is kept" if run.options.keep else "is ended, with its files,"
    tell(f"{entry.name} costs {entry.hourly} an hour, and {after} when the result is here; {ends}")


def _check_idle(run: PodRun, state: dict[str, Any]) -> None:
    """Raise UsageError if the pod has another run."""
    if state["other"]:
        raise UsageError(
            f"{run.pod} tunes already, for another --out ({state['other']})",
            "wait for its end, or name another pod",
        )


def _ready(run: PodRun, here: PodAccount, entry: Entry) -> tuple[PodLine, PodFacts]:
    with errors.status("looking for dure there") as status:

        def told(text: str) -> None:
            status.update(f"installing dure there: {printable(text)[:80]}")

        return ready_line(here, entry, run.out, told)


def _stop(run: PodRun, line: PodLine, state: dict[str, Any]) -> None:
    """Have the run end with a checkpoint; if there is none, only bring home what it has left."""
    if state["running"]:
        line.ask("stop")
        return
    saved = bring_checkpoint(line, run.out)
    line.ask("fetched")
    what = (
        f"the checkpoint of step {saved.step:,} is here now"
        if saved
        else "nothing is to be fetched"
    )
    raise UsageError(f"no run of {run.out} goes on in {run.pod}; {what}")


def _started(
    run: PodRun,
    here: PodAccount,
    line: PodLine,
    facts: PodFacts,
    luggage: Luggage,
    state: dict[str, Any],
) -> str:
    """Copy what is needed and start the run; return the name of the start. Raises DureError."""
    _hand_token(run, here, line.entry)
    at_home = {} if run.restart else _from_home(run.out, state["step"])
    _copy(run, line, facts, replace(luggage, files={**luggage.files, **at_home}))
    job = run.job(luggage)
    if line.ask("start", given=msgspec.json.encode(job))["started"]:
        return job.attempt
    attempt: str = line.ask("state")["attempt"]  # another command was quicker
    return attempt


def _from_home(out: Path, step_there: int) -> dict[str, Path]:
    """Return the files of the checkpoint here, if it is newer than the pod's; none else."""
    steps = steps_of(out / "checkpoints")
    if not steps or steps[-1] <= step_there:
        return {}
    newest = step_folder(out / "checkpoints", steps[-1])
    best = msgspec.json.decode((newest / "progress.json").read_bytes())["best_step"]
    folders = {newest} | ({step_folder(out / "checkpoints", best)} if best is not None else set())
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    files += [file for name in ("run.json", LOSSES) if (file := out / name).exists()]
    return {f"brought/{file.relative_to(out)}": file for file in files}


def _copy(run: PodRun, line: PodLine, facts: PodFacts, luggage: Luggage) -> None:
    if facts.free_bytes < luggage.size_bytes:
        has, needs = compared(facts.free_bytes, luggage.size_bytes)
        raise UsageError(
            f"{run.pod} has {has} free, and {needs} are to be copied",
            "rent one with a larger --volume",
        )
    for pause_s in (*_PAUSES_S, None):
        try:
            with progress_bar(f"copying to {run.pod}", luggage.size_bytes) as advance:
                line.send(luggage.files, advance)
            return
        except LostLineError as error:
            if pause_s is None:
                raise
            tell(f"{error.problem}; it goes on in {pause_s:.0f} s")
            time.sleep(pause_s)


def _hand_token(run: PodRun, here: PodAccount, entry: Entry) -> None:
    """Hand the token of Hugging Face over, if the base is gated and that is agreed to."""
    hub = run.base.hub.removeprefix("hf:")
    if not run.base.hub.startswith("hf:"):
        return
    token = token_for(hub.partition("@")[0], run.options.hf_token)
    if token is not None:
        question = f"hand your token of Hugging Face to {run.pod}, by ssh?"
        ask(question, yes=run.options.yes, as_json=run.as_json)
        here.ssh.hand_token(entry, token)


@contextmanager
def _saying_how_to_go_on(run: PodRun) -> Iterator[None]:
    """Say what Ctrl-C has left behind before anything runs."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(
            f"\nstopped before the run began; {run.pod} goes on: the same command goes on with copying",
            markup=False,
        )
        raise typer.Exit(130) from None
