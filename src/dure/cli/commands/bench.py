"""`dure bench`: measures prompt and generation speed, as `llama-bench` does."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dure.cli.terminal.console import loading_bar, output, print_json
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import Json, Model, Running
from dure.cli.terminal.running_model import running_model
from dure.cli.terminal.trace_report import print_trace, write_trace
from dure.engine.compute.allreduce import Wire
from dure.engine.executor import FullExecutor
from dure.engine.instruments.benchmark import BenchResult, BenchRuns, measure
from dure.engine.instruments.floor import FloorProbe
from dure.engine.instruments.timed_runs import TimedRuns
from dure.engine.trace import RankTrace, parts_of
from dure.errors import UsageError
from dure.model.gguf import open_gguf
from dure.sizes import bytes_text

__all__ = ["bench"]

N_TRACED = 32  # tokens


@expanded
def bench(
    model: Model,
    *,
    running: Running,
    n_prompt: Annotated[int, typer.Option("-p", "--prompt", help="Tokens of a prompt.")] = 512,
    n_generate: Annotated[int, typer.Option("-n", "--generate", help="Tokens to generate.")] = 128,
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
    as_json: Json = False,
) -> None:
    """Measure speed, time and bytes per token, and memory, on one rank or cut over several.

    `dure cluster bench` measures each machine alone; this measures the model on all of them.

    Example: dure bench models/dure-demo.gguf --ranks 2 -p 128 -n 64
    """
    runs = BenchRuns(n_prompt, n_generate, depth, repeat)
    _check_runs(runs, running.ctx)
    file = resolve_model(model)
    _check_trained(runs, file)
    options = running.options("bench", model, ctx=runs.n_tokens)
    with running_model(file, options) as (gguf, executor):
        traced = _traced(executor, trace, min(n_generate, N_TRACED)) if trace else None
        floor = FloorProbe(executor, gguf, options.wire) if trace else None
        with loading_bar(f"measuring {file.name}") as progress:
            result = measure(executor, runs, progress, floor)
    by_rank = [_milliseconds(parts) for parts in parts_of(traced)] if traced else []
    if as_json:
        facts = {"model": str(file), "sync": options.wire.value, **asdict(result)}
        if floor:
            facts["trace"] = {"per_token_ms_by_rank": by_rank, **asdict(floor.floor())}
        print_json(facts)
        return
    if floor:
        print_trace(by_rank, floor.floor(), result.generation.tokens_per_s.median)
    _print(result, options.wire)


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: 1e3 * s for name, s in seconds.items()}


def _check_runs(runs: BenchRuns, ctx: int | None) -> None:
    """Raise UsageError for numbers that cannot be run."""
    for name, number in (("-p", runs.n_prompt), ("-n", runs.n_generate), ("--repeat", runs.repeat)):
        if number < 1:
            raise UsageError(f"{name} {number}", "give a number above 0")
    if runs.depth < 0:
        raise UsageError(f"-d {runs.depth}", "give 0 or a number above")
    if ctx is not None and ctx < runs.n_tokens:
        raise UsageError(
            f"--ctx {ctx} is less than the {runs.n_tokens} tokens of a run",
            "raise it, or use smaller -d, -p and -n",
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


def _traced(executor: FullExecutor, path: Path, n_tokens: int) -> list[RankTrace]:
    """Trace the generation of some tokens, and write the trace to a file."""
    runs = TimedRuns(executor, np.zeros(n_tokens, np.int32), 0)
    runs.generate(n_tokens)  # a warm-up
    executor.trace()
    runs.generate(n_tokens)
    ranks = executor.traced()
    write_trace(path, ranks, executor.facts())
    return ranks


def _print(result: BenchResult, wire: Wire) -> None:
    token = result.per_token_ms
    output.print(
        f"ranks {result.ranks}, threads of each {result.threads}, sums in {wire.value}"
        + (f", {result.depth} tokens in the context before" if result.depth else "")
    )
    for name, rate in (("prompt", result.prompt), ("generation", result.generation)):
        speed = rate.tokens_per_s
        output.print(
            f"{name:<12}{speed.median:8.2f} tokens/s  ({speed.min:.2f} to {speed.max:.2f}, "
            f"{rate.tokens} tokens, {len(speed.runs)} runs)"
        )
    output.print(
        f"per token   compute {token.compute:.2f} ms, sync {token.sync:.2f} ms, "
        f"idle {token.idle:.2f} ms, {bytes_text(result.bytes_sent_per_token)} sent"
    )
    for rank, peak in enumerate(result.peak_memory_bytes):
        output.print(
            f"rank {rank:<7}peak memory {bytes_text(peak)} (weights "
            f"{bytes_text(result.weights_bytes[rank])}, KV cache {bytes_text(result.kv_bytes[rank])})"
        )
