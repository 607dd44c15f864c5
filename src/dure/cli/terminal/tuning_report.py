"""Tunes a cluster's latency, and reports what each lever brought."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.table import Table

from dure.cli.terminal.console import errors, output, print_json, printable
from dure.cli.terminal.running_model import running_model
from dure.cluster.examination import condition_here
from dure.cluster.job_identity import JobIdentity
from dure.cluster.root.membership import Cluster
from dure.cluster.root.sole_use import sole_use
from dure.cluster.root.speeds import round_trip_s
from dure.cluster.root.survey import Nodes, root_report
from dure.cluster.trust.identity import ROOT_NAME, shown_name
from dure.deploy.options import RunOptions
from dure.doctor.changes import ChangeJournal
from dure.doctor.cluster import NodeSettings, examined_nodes
from dure.doctor.levers import Lever, levers_of
from dure.doctor.tuning import Latency, TunedLever, tune
from dure.engine.instruments.timed_runs import TimedRuns
from dure.errors import ClusterError
from dure.hardware.settings import MachineSettings, Settings

__all__ = ["tune_cluster"]

_TRIPS, _TOKENS, _LEAST_RUNS = 20, 16, 3
_LEAST_S = 2.0  # of generation in a measurement: a token of a small model takes milliseconds
_JOB = "doctor --tune"


def tune_cluster(
    cluster: Cluster, journal: ChangeJournal, model: Path | None, *, as_json: bool
) -> None:
    """Try every lever of a cluster, and report each. model: whose tokens are timed, on all nodes.

    Raises ClusterError if a node does not answer, or something else runs.
    """
    if not cluster.members:
        raise ClusterError("the cluster has no nodes", "`dure cluster invite` lets machines join")
    nodes = Nodes(cluster)
    with errors.status("examining all machines"):
        conditions = {ROOT_NAME: condition_here(), **examined_nodes(cluster)}
    settings: dict[str, Settings] = {ROOT_NAME: MachineSettings()}
    settings |= {one.name: NodeSettings(nodes, one) for one in cluster.members}
    levers, results = levers_of(conditions, with_model=model is not None), list[TunedLever]()
    with journal.held(), _measuring(cluster, nodes, model) as measure:
        for lever, result in zip(levers, tune(levers, settings, measure, journal), strict=True):
            results.append(result)
            errors.print(f"{lever.what}: {_told(result)}", markup=False, soft_wrap=True)
    if as_json:
        print_json([_data(one) for one in results])
    elif results:
        output.print(_table(results))
    else:
        errors.print("every lever that these machines have is pulled already")
    if any(one.helps for one in results):
        errors.print("`dure doctor --undo` takes the changes back")


@contextmanager
def _measuring(
    cluster: Cluster, nodes: Nodes, model: Path | None
) -> Iterator[Callable[[Lever], Latency]]:
    """Yield what measures the latency of a cluster that nobody else uses."""

    def trips() -> float:
        each = [[round_trip_s(one) for _ in range(_TRIPS)] for one in cluster.members]
        return max(map(statistics.median, each))

    if model is None:
        reports = [root_report(cluster.directory), *nodes.survey(cluster.members)]
        with sole_use(cluster, JobIdentity.new(_JOB, ""), reports):
            trips()  # what is slow the first time is no lever's fault
            yield lambda _: Latency(trips())
        return
    with _TimedModel(model) as timed:
        yield lambda lever: Latency(trips(), _token_s(timed.runs(anew=lever.restarts)))


class _TimedModel:
    """A model on all nodes whose tokens are timed; started once, and anew where ranks must see a change."""

    def __init__(self, model: Path) -> None:
        job = JobIdentity.new(_JOB, model.stem)
        self._options = RunOptions(cluster=True, nodes="all", ctx=max(256, _TOKENS), job=job)
        self._model, self._running = model, ExitStack()
        self._runs: TimedRuns | None = None

    def runs(self, *, anew: bool) -> TimedRuns:
        """Return what times it, warm."""
        if self._runs is None or anew:
            self._running.close()
            _, executor = self._running.enter_context(running_model(self._model, self._options))
            self._runs = TimedRuns(executor, np.zeros(_TOKENS, np.int32), 0)
            self._runs.generate(_TOKENS)
        return self._runs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()


def _token_s(timed: TimedRuns) -> float:
    """Return the median seconds of a token, of runs that take some seconds together."""
    runs = list[float]()
    while len(runs) < _LEAST_RUNS or sum(runs) < _LEAST_S:
        runs.append(timed.generate(_TOKENS)[0])
    return statistics.median(runs) / _TOKENS


# ---------------------------------------------------------------- the report


def _told(result: TunedLever) -> str:
    if result.problem:
        return f"not tried: {printable(result.problem)}"
    verdict = "kept" if result.helps else "taken back"
    return f"{result.gain:+.1%}, {verdict}"


def _table(results: Sequence[TunedLever]) -> Table:
    table = Table("lever", "machines", box=None, pad_edge=False)
    for heading in ("round trip, µs", "token, ms", "gain"):
        table.add_column(heading, justify="right")
    table.add_column("outcome")
    for one in results:
        machines = ", ".join(map(shown_name, one.lever.settings))
        if one.problem:
            table.add_row(one.lever.what, machines, "", "", "", printable(one.problem))
            continue
        table.add_row(
            one.lever.what,
            machines,
            _change(_trips_us(one.without), _trips_us(one.with_it)),
            _change(_steps_ms(one.without), _steps_ms(one.with_it)),
            f"{one.gain:+.1%}",
            "kept" if one.helps else "taken back",
        )
    return table


def _trips_us(measured: Sequence[Latency]) -> list[float]:
    return [1e6 * one.round_trip_s for one in measured]


def _steps_ms(measured: Sequence[Latency]) -> list[float]:
    return [1e3 * one.step_s for one in measured if one.step_s is not None]


def _change(without: Sequence[float], with_it: Sequence[float]) -> str:
    if not without:
        return ""
    return f"{statistics.median(without):.4g} -> {statistics.median(with_it):.4g}"


def _data(result: TunedLever) -> dict[str, Any]:
    measured = {
        name: [{"round_trip_s": one.round_trip_s, "step_s": one.step_s} for one in some]
        for name, some in (("without", result.without), ("with", result.with_it))
    }
    gain = None if result.problem else result.gain
    outcome = {"gain": gain, "kept": result.helps, "problem": result.problem}
    machines = {
        name: {one.setting: one.value for one in values}
        for name, values in result.lever.settings.items()
    }
    return {"lever": result.lever.name, "settings": machines, **measured, **outcome}
