"""`dure tune`: makes a model answer as examples do."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dure.cli.terminal.console import errors, output, print_json, printable
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import Json
from dure.cli.terminal.stop_signals import StopSignals
from dure.cli.terminal.tune_notes import TuneNotes
from dure.cli.terminal.tune_on_pod import PodRun, plan_on_pod, tuned_on_pod
from dure.cli.terminal.tune_options import (
    DataOptions,
    LearningOptions,
    MemoryOptions,
    WhatLearns,
    settings_of,
)
from dure.cli.terminal.tune_peers import goes_on_alone, one_of_several, run_on_gpus
from dure.cli.terminal.tune_plan_report import PlanOptions, plan_data, print_plan
from dure.cli.terminal.tune_pod_options import PodBase, PodRunOptions, pod_base
from dure.cli.terminal.tune_result import ResultOptions
from dure.cli.terminal.tune_to_boards import ToBoards
from dure.cli.terminal.tune_view import as_json_lines, shown
from dure.errors import UsageError
from dure.hardware.probe import probe
from dure.tune.needed import check_installed
from dure.tune.peers.environment import is_first, n_started

if TYPE_CHECKING:
    from dure.tune.loop.events import Observer, RunEnded, TuneEvent
    from dure.tune.peers.group import Peers

__all__ = ["tune"]


@expanded
def tune(
    context: typer.Context,
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="The model: a Hugging Face folder, with config.json and safetensors in it, or a GGUF.",
            show_default=False,
        ),
    ],
    *,
    what: WhatLearns,
    reading: DataOptions,
    learning: LearningOptions,
    memory: MemoryOptions,
    planning: PlanOptions,
    result: ResultOptions,
    pod: PodRunOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the result, the checkpoints and the losses.",
            show_default="BASE-tuned",
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(
            metavar="STEPS",
            help="Write a checkpoint after so many steps.",
            min=1,
            show_default="every 10 minutes, and with each best evaluation",
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Begin anew, though the folder has a run that could go on."),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write event files of TensorBoard beside the result."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Tune a model with examples of yours: a small adapter, all of its weights, or a new model.

    What was stopped, or killed, goes on from its last checkpoint if the same command is given again.
    With --on it runs on a rented pod, and goes on there when this command ends.

    Example: dure tune ./Qwen3-0.6B --data answers.jsonl --out tuned
    """
    if pod.on is None:
        check_installed((*_needed(tensorboard),))
    planning.check()
    pod.check(memory.gpus)
    given = pod_base(base) if pod.on is not None else PodBase(_base(base))
    settings = settings_of(given.path, what, reading, learning, memory)
    result.check(
        given.path,
        learns_adapter=what.method == "lora",
        is_typed=lambda name: str(context.get_parameter_source(name)).endswith("COMMANDLINE"),
    )
    is_new = what.method == "from-scratch"
    if pod.on is not None and result.is_wanted and not is_new and not given.is_here:
        raise UsageError(
            f"{base} is not on this machine, where a GGUF would be made with it",
            "get it and name its path, or leave that out and import the result later: `dure import`",
        )
    target = out or Path(f"{given.path.name.removesuffix('.gguf')}-tuned")
    boards = ToBoards(result, context, target, settings)
    if goes_on_alone():
        boards.check(listens=not planning.plan)
    run = PodRun(
        *(settings, given, target, pod, save_every),
        *(memory.threads, tensorboard, restart, memory.anyway, as_json),
    )
    if planning.plan:
        if memory.gpus > 1:
            raise UsageError(
                f"--plan with --gpus {memory.gpus}", "leave out --gpus: what is planned is one GPU"
            )
        _tell_plan(run, planning)
        return
    if goes_on_alone():
        boards.tell(1, f"tuning {given.path.name}")
    with _noted(run, memory.gpus):
        done = _ended(run, memory.gpus)
        if not goes_on_alone():
            return
        if not as_json:
            _report(done)
        for file in boards.files(done.path):
            _tell_of(file, as_json=as_json)
    boards.serve()


def _noted(run: PodRun, gpus: int) -> AbstractContextManager[None]:
    """Return what notes the work: where it is done, and by the first of several processes."""
    starts_others = gpus > 1 and n_started() == 1
    if run.options.on is not None or starts_others or not is_first():
        return nullcontext()
    return noted("tune", run.base.path.name)


def _tell_plan(run: PodRun, options: PlanOptions) -> None:
    if run.options.on is not None:
        plan_on_pod(run, options)
        return
    from dure.tune.estimate.kept import times_directory
    from dure.tune.estimate.plan import plan_of

    _use_threads(run.threads)
    plan = plan_of(run.settings, times_directory())
    if run.as_json:
        print_json(plan_data(plan, options))
    else:
        print_plan(plan, options)


def _ended(run: PodRun, gpus: int) -> RunEnded:
    """Tune here, on several GPUs, or on a pod, to the end."""
    if run.options.on is not None:
        return tuned_on_pod(run, lambda: _observing(run.out, False, as_json=run.as_json))
    _use_threads(run.threads)
    if gpus > 1 and n_started() == 1:
        return run_on_gpus(gpus, run.out)
    seen = _observing(run.out, run.tensorboard, as_json=run.as_json)
    with one_of_several() as (peers, stop), seen as observer:
        return _tuned(run, observer, stop, peers)


def _needed(tensorboard: bool) -> Iterator[str]:
    yield from ("torch", "transformers", "peft")
    if tensorboard:
        yield "tensorboard"


def _base(name: str) -> Path:
    path = Path(name)
    return path if path.exists() else resolve_model(name)


def _use_threads(threads: int | None) -> None:
    import torch

    torch.set_num_threads(threads or max(1, probe().cores // n_started()))


@contextmanager
def _observing(target: Path, tensorboard: bool, *, as_json: bool) -> Iterator[Observer]:
    if not is_first():
        yield lambda _: None
        return
    from dure.tune.loop.journal import LOSSES

    with ExitStack() as stack:
        observers: list[Observer] = [as_json_lines if as_json else stack.enter_context(shown())]
        observers.append(TuneNotes(target / LOSSES).tell)
        if tensorboard:
            from dure.tune.loop.tensorboard import event_files

            observers.append(stack.enter_context(event_files(target / "tensorboard")))

        def tell(event: TuneEvent) -> None:
            for observer in observers:
                observer(event)

        yield tell


def _tuned(run: PodRun, observer: Observer, stop: StopSignals, peers: Peers) -> RunEnded:
    from dure.tune.estimate.plan import check_memory
    from dure.tune.loop.run import tune_model
    from dure.tune.loop.training import Stopped

    try:
        return tune_model(
            run.settings,
            run.out,
            observer,
            save_every=run.save_every,
            restart=run.restart,
            check=None if run.anyway else check_memory,
            is_stopped=stop.came,
            peers=peers,
        )
    except Stopped as stopped:
        if peers.is_first:
            errors.print(
                f"stopped after step {stopped.step:,}, which is saved: the same command goes on from there",
                markup=False,
            )
        # Not typer's Exit: this notes that the run was stopped, not that it failed.
        raise SystemExit(128 + (stop.number or signal.SIGINT)) from None


def _tell_of(file: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"event": "written", "path": str(file)}, in_a_line=True)
    else:
        output.print(printable(str(file)), soft_wrap=True)


def _report(done: RunEnded) -> None:
    early = ", as it got no better" if done.stopped_early else ""
    best = f", held-out loss {done.eval_loss:.4f}" if done.eval_loss is not None else ""
    errors.print(f"ended after step {done.steps:,}{early}; weights of step {done.step:,}{best}")
    output.print(printable(str(done.path)), soft_wrap=True)
