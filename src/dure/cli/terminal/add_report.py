"""Shows the progress of `dure node add`: a live line per host on a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from dure.cli.terminal.console import errors, output, print_json, printable
from dure.cluster.add.adding import add, rehearse
from dure.cluster.add.outcome import AddProgress, Outcome, OutcomeState
from dure.cluster.add.preparing import AddOptions, AddStep
from dure.cluster.add.ssh import Destination
from dure.cluster.root.membership import Cluster
from dure.sizes import bytes_text

__all__ = ["add_machines", "show_plan"]

STILL_EVERY_S = 60.0
_DOING = {
    AddStep.LOG_IN: "logging in",
    AddStep.CHECK: "checking it",
    AddStep.INSTALL: "installing dure",
    AddStep.JOIN: "joining",
    AddStep.SERVICE: "starting the service",
    AddStep.ANSWER: "waiting for its answer",
}


def add_machines(
    cluster: Cluster, hosts: Sequence[Destination], options: AddOptions, *, as_json: bool
) -> bool:
    """Make these machines nodes and print each outcome; return whether all succeeded."""
    with _stop_reported(), _watching([host.text for host in hosts]) as progress:
        outcomes = add(cluster, hosts, options, progress)
    if as_json:
        print_json([_facts(outcome) for outcome in outcomes])
    else:
        _summarize(outcomes)
    return all(outcome.state != OutcomeState.FAILED for outcome in outcomes)


def show_plan(
    cluster: Cluster, hosts: Sequence[Destination], options: AddOptions, *, as_json: bool
) -> bool:
    """Print what would be run for these machines; return whether all can be added."""
    with _stop_reported(), _watching([host.text for host in hosts]) as progress:
        plans = rehearse(cluster, hosts, options, progress)
    if as_json:
        print_json(
            [
                {"host": host.text, "commands": commands, "outcome": ended and _facts(ended)}
                for host, (ended, commands) in zip(hosts, plans, strict=True)
            ]
        )
    else:
        for host, (ended, commands) in zip(hosts, plans, strict=True):
            if ended is not None:
                _summarize([ended])
            for command in [f"# {host.text}", *commands] if commands else []:
                output.print(command, soft_wrap=True)
    return all(ended is None or ended.state != OutcomeState.FAILED for ended, _ in plans)


@contextmanager
def _stop_reported() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        errors.print("\nstopped: run the same command again to go on from here", markup=False)
        raise typer.Exit(130) from None


# ---------------------------------------------------------------- outcomes


def _facts(outcome: Outcome) -> dict[str, Any]:
    failure, platform = outcome.failure, outcome.platform
    return {
        "host": outcome.host,
        "state": outcome.state.value,
        "node": outcome.node or None,
        "done": [step.value for step in outcome.done],
        "platform": dataclasses.asdict(platform) if platform else None,
        "failure": failure
        and {
            "step": failure.step.value,
            "reason": failure.problem,
            "cure": failure.cure,
            "lines": failure.lines,
        },
    }


def _summarize(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.failure is None:
            output.print(printable(f"{outcome.host}: {_success(outcome)}"), soft_wrap=True)
        else:
            _print_failure(outcome)


def _success(outcome: Outcome) -> str:
    if outcome.state == OutcomeState.JOINED:
        return f"{outcome.node} belongs to the cluster; start `dure node` on it"
    already = "" if outcome.done else " already"
    machine = outcome.platform
    assert machine is not None, "it answers"
    memory = bytes_text(machine.memory_bytes)
    facts = f"{machine.architecture}, {machine.processor}, {machine.cores} cores, {memory}"
    held = f" (held to {', '.join(machine.limits)})" if machine.limits else ""
    return f"{outcome.node} answers{already}: {facts}{held}"


def _print_failure(outcome: Outcome) -> None:
    failure = outcome.failure
    assert failure is not None
    name = f" ({outcome.node})" if outcome.node else ""
    text = f"{outcome.host}{name}: {failure.step} failed: {failure.problem}"
    errors.print(printable(text), style="red", markup=False, soft_wrap=True)
    if outcome.done:
        errors.print(f"    done before: {', '.join(outcome.done)}", markup=False, soft_wrap=True)
    for line in failure.lines:
        errors.print(f"    | {printable(line)}", markup=False, soft_wrap=True)
    if failure.cure:
        errors.print(f"    cure: {printable(failure.cure)}", markup=False, soft_wrap=True)


# ---------------------------------------------------------------- progress


@contextmanager
def _watching(hosts: Sequence[str]) -> Iterator[AddProgress]:
    if errors.is_terminal:
        with _Board(hosts) as board:
            yield board
    else:
        with _Lines() as lines:
            yield lines


class _Board:
    """A line for each host: its step, how long it has taken, and the last line of output."""

    def __init__(self, hosts: Sequence[str]) -> None:
        columns = (
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[doing]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}", markup=False, style="dim"),
        )
        self._bars = Bars(*columns, console=errors, transient=True)
        self._tasks: dict[str, TaskID] = {
            host: self._bars.add_task(printable(host), total=1, doing="", line="") for host in hosts
        }

    def __enter__(self) -> _Board:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def began(self, host: str, step: AddStep) -> None:
        """Show the step."""
        self._bars.update(self._tasks[host], doing=_DOING[step], line="")

    def printed(self, host: str, line: str) -> None:
        """Show as much of the line as fits."""
        room = max(10, errors.width - max(map(len, self._tasks)) - 40)
        self._bars.update(self._tasks[host], line=printable(line.strip())[:room])

    def ended(self, outcome: Outcome) -> None:
        """Stop the host's clock and show its outcome."""
        doing = outcome.state.value
        self._bars.update(self._tasks[outcome.host], doing=doing, line="", completed=1)


class _Lines:
    """A line for each step, and one per minute while a step lasts."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._running: dict[str, AddStep] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> _Lines:
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._clock.join()

    def began(self, host: str, step: AddStep) -> None:
        """Print the step."""
        with self._lock:
            self._running[host] = step
            self._print(f"{host}: {_DOING[step]}")

    def printed(self, host: str, line: str) -> None:
        """Print nothing: a failure shows the last lines."""

    def ended(self, outcome: Outcome) -> None:
        """Print the outcome and the time it took."""
        with self._lock:
            self._running.pop(outcome.host, None)
            self._print(f"{outcome.host}: {outcome.state.value} after {self._minutes()}")

    def _repeat(self) -> None:
        while not self._over.wait(STILL_EVERY_S):
            with self._lock:
                for host, step in self._running.items():
                    self._print(f"{host}: still {_DOING[step]}, {self._minutes()}")

    def _print(self, text: str) -> None:
        errors.print(printable(text), markup=False, soft_wrap=True)

    def _minutes(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{minutes}:{seconds:02d}"
