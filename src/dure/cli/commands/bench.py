"""`dure bench`: measures prompt and generation speed, as `llama-bench` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dure.cli.terminal.bench_report import (
    BenchRow,
    bench_facts,
    correction_of,
    print_row,
    rows_table,
)
from dure.cli.terminal.configuration import NUMBERS
from dure.cli.terminal.console import loading_bar, output, print_json, print_warning
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.noted import noted
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import SPEED, Json, Model, Running
from dure.cli.terminal.plan_report import basis_of
from dure.cli.terminal.running_model import running_deployment
from dure.cli.terminal.sharing import Sharing
from dure.cli.terminal.trace_report import print_trace, write_trace
from dure.deploy.corrections import KnownCorrections
from dure.deploy.deployment import Deployment
from dure.deploy.expectation import expectations_of
from dure.deploy.measurement_record import measurement_of, run_record
from dure.deploy.options import RunOptions, parse_shares
from dure.engine.executor import FullExecutor
from dure.engine.instruments.benchmark import BenchResult, BenchRuns, measure
from dure.engine.instruments.floor import FloorProbe
from dure.engine.instruments.timed_runs import TimedRuns
from dure.engine.trace import RankTrace, parts_of
from dure.engine.wire import Wire
from dure.errors import ClusterError, UsageError
from dure.model.gguf import GgufFile, open_gguf
from dure.places import cluster_directory
from dure.plan.expectation import Expectations
from dure.plan.measurements import Measurement
from dure.plan.model_record import model_record

__all__ = ["bench"]

N_TRACED = 32  # tokens


@expanded
def bench(
    model: Model,
    *,
    running: Running,
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            "-t",
            metavar=NUMBERS,
            help="Threads of each rank; a list as in 1,2 measures each.",
            show_default="cores / ranks; with --cluster all that other commands leave",
            rich_help_panel=SPEED,
        ),
    ] = None,
    n_prompt: Annotated[
        str,
        typer.Option(
            "-p",
            "--prompt",
            metavar=NUMBERS,
            help="Tokens of a prompt; a list as in 128,512 measures each.",
        ),
    ] = "512",
    n_generate: Annotated[
        str,
        typer.Option("-n", "--generate", metavar=NUMBERS, help="Tokens to generate, or a list."),
    ] = "128",
    depth: Annotated[
        int, typer.Option("-d", "--depth", help="Tokens in the context before each run.")
    ] = 0,
    repeat: Annotated[int, typer.Option(help="Number of runs of each; the median is shown.")] = 5,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write the time of each part of each layer to this file, for ui.perfetto.dev, and show "
            "it beside the least that memory and network allow.",
            show_default=False,
        ),
    ] = None,
    sharing: Sharing,
    as_json: Json = False,
) -> None:
    """Measure speed, time and bytes per token, and memory, on one rank or cut over several.

    `dure cluster bench` measures each machine alone; this measures the model on all of them.
    With lists, every combination is measured, a row each. If the speeds of the machines are known, it says
    what they promised; with --cluster `dure plan` corrects its predictions by that from then on.
    --share writes what was measured to a file that others may have.

    Example: dure bench models/dure-demo.gguf --ranks 2 -p 128,512 -n 64 -t 1,2
    """
    lengths = product(_numbers("-p", n_prompt), _numbers("-n", n_generate))
    adapters = running.options("bench", model).adapters
    runs = [BenchRuns(prompt, generate, depth, repeat, adapters) for prompt, generate in lengths]
    counts = [None] if threads is None else _numbers("--threads", threads)
    if trace and len(runs) * len(counts) > 1:
        raise UsageError("--trace is of one measurement", "give one number each to -p, -n and -t")
    for one in runs:
        _check_runs(one, running.ctx)
    sharing.check(runs, as_json=as_json)
    if sharing.share:
        _check_shared(running, trace, counts)
    file = resolve_model(model)
    longest = max(runs, key=lambda one: one.n_tokens)
    _check_trained(longest, file)
    if sharing.share:
        with open_gguf(file) as gguf:
            model_record(gguf)  # or it raises what a record would, before anything is measured
    found: list[BenchRow] = []
    with noted("bench", file.name):
        for count in counts:
            options = replace(running, threads=count).options("bench", model, ctx=longest.n_tokens)
            if trace:
                _bench_traced(file, options, longest, trace, as_json=as_json)
                return
            rows, record = _measured(file, options, runs, is_shared=sharing.share is not None)
            found += rows
    if not as_json:
        _print(found, options.wire)
    shared = {"shared": sharing.offer(record)} if record else {}
    if as_json:
        with open_gguf(file) as gguf:
            print_json({**bench_facts(gguf, options.wire, found), **shared})


def _print(rows: Sequence[BenchRow], wire: Wire) -> None:
    if len(rows) == 1:
        print_row(rows[0], wire)
    else:
        output.print(rows_table(rows, wire))


def _measured(
    file: Path, options: RunOptions, runs: Sequence[BenchRuns], *, is_shared: bool
) -> tuple[list[BenchRow], Measurement | None]:
    """Run a model; return what each of these runs gave, and a record of it if it is to be shared.

    How it differs from a prediction is kept.
    """
    with running_deployment(file, options) as (gguf, deployment):
        if is_shared:
            _check_alone(deployment)
            _check_no_gpu(deployment, "--share")
        expected = expectations_of(gguf, options, deployment)
        rows = []
        for one in runs:
            with loading_bar(f"measuring {file.name}", "timing") as progress:
                result = measure(deployment.executor, one, progress)
            rows.append(_row(result, expected))
        if options.cluster and expected:
            _keep_correction(gguf, expected, rows)
        if not is_shared:
            return rows, None
        setup = expected.setup if expected else None
        records = [run_record(row.result, row.expected) for row in rows]
        return rows, measurement_of(gguf, deployment, options.wire, setup, records)


def _row(result: BenchResult, expected: Expectations | None) -> BenchRow:
    if expected is None:
        return BenchRow(result)
    tokens = result.prompt.tokens, result.generation.tokens
    return BenchRow(result, expected.of(*tokens, result.depth), basis_of(expected.setup))


def _keep_correction(gguf: GgufFile, expected: Expectations, rows: Sequence[BenchRow]) -> None:
    """Keep for `dure plan --cluster` what these rows have shown, if they are long enough to show it."""
    correction = correction_of(rows)
    if correction is None:
        return
    try:
        known = KnownCorrections(cluster_directory())
        known.keep(gguf, expected.setup, expected.shares, correction)
    except OSError as error:
        print_warning(f"`dure plan --cluster` will not know these speeds: {error}")


def _bench_traced(
    file: Path, options: RunOptions, runs: BenchRuns, trace: Path, *, as_json: bool
) -> None:
    """Measure with a trace, and beside what memory and network allow."""
    with running_deployment(file, options) as (gguf, deployment):
        _check_no_gpu(deployment, "--trace")
        executor = deployment.executor
        traced = _traced(executor, trace, runs, min(runs.n_generate, N_TRACED))
        floor = FloorProbe(executor, gguf, options.wire)
        with loading_bar(f"measuring {file.name}", "timing") as progress:
            result = measure(executor, runs, progress, floor)
        row = _row(result, expectations_of(gguf, options, deployment))
        facts = bench_facts(gguf, options.wire, [row])
    by_rank = [{name: 1e3 * s for name, s in parts.items()} for parts in parts_of(traced)]
    least = floor.floor()
    if as_json:
        facts["trace"] = {"per_token_ms_by_rank": by_rank, **asdict(least)}
        print_json(facts)
        return
    print_trace(by_rank, least, result.generation.tokens_per_s.median)
    print_row(row, options.wire)


def _numbers(option: str, text: str) -> list[int]:
    """Return the numbers of a list, each once. Raises UsageError."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) for word in words):
        raise UsageError(f"{option} {text}", "give a whole number above 0, or a list as in 128,512")
    return list(dict.fromkeys(map(int, words)))


def _check_runs(runs: BenchRuns, ctx: int | None) -> None:
    """Raise UsageError for numbers that cannot be run."""
    if runs.repeat < 1:
        raise UsageError(f"--repeat {runs.repeat}", "give a number above 0")
    if runs.depth < 0:
        raise UsageError(f"-d {runs.depth}", "give 0 or a number above")
    if ctx is not None and ctx < runs.n_tokens:
        raise UsageError(
            f"--ctx {ctx} is less than the {runs.n_tokens} tokens of a run",
            "raise it, or use smaller -d, -p and -n",
        )


def _check_shared(running: Running, trace: Path | None, counts: Sequence[object]) -> None:
    """Raise UsageError for a measurement that would say little to others."""
    if trace or running.lora:
        beside = "--trace" if trace else "--lora"
        raise UsageError(f"--share beside {beside}, which takes time", "leave one of them out")
    if len(counts) > 1:
        raise UsageError("--share is of one number of threads", "give one to -t")
    if not running.cluster and len(parse_shares(running.shares, running.ranks)) > 1:
        raise UsageError(
            "--share of several ranks on one machine, which share its memory",
            "leave out --ranks and --shares, or add --cluster",
        )


def _check_alone(deployment: Deployment) -> None:
    if deployment.is_shared:
        raise ClusterError(
            "other jobs use these machines, so the speeds would not be those of this model",
            "stop them, or leave out --share",
        )


def _check_no_gpu(deployment: Deployment, option: str) -> None:
    """Raise UsageError if layers lie on a GPU, of which what follows knows nothing."""
    if deployment.gpu:
        raise UsageError(
            f"{option} is of processors, and layers lie on {deployment.gpu.gpu.description}",
            "add --gpu-layers 0",
        )


def _check_trained(runs: BenchRuns, model: Path) -> None:
    """Raise UsageError if a run is longer than what the model was trained for."""
    with open_gguf(model) as gguf:
        trained = gguf.int(f"{gguf.architecture}.context_length", runs.n_tokens)
    if runs.n_tokens > trained:
        raise UsageError(
            f"-d {runs.depth} with -p {runs.n_prompt} or -n {runs.n_generate} is more than the "
            f"{trained} tokens this model was trained for",
            "use fewer",
        )


def _traced(executor: FullExecutor, path: Path, runs: BenchRuns, n_tokens: int) -> list[RankTrace]:
    """Trace the generation of some tokens, and write the trace to a file."""
    timed = TimedRuns(executor, np.zeros(n_tokens, np.int32), 0, runs.adapters)
    timed.generate(n_tokens)  # a warm-up
    executor.trace()
    timed.generate(n_tokens)
    ranks = executor.traced()
    write_trace(path, ranks, executor.facts())
    return ranks
