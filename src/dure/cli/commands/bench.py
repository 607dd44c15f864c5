"""`dure bench`: prompt and generation speed, measured as `llama-bench` does.

Random tokens, no sampling: a warm-up, then `--repeat` times a prompt from an empty cache, then
`--repeat` times a generation from an empty cache. A generation's first token is decoded, not prompted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from dure.cli.terminal.console import bytes_text, loading_bar, output, print_json
from dure.cli.terminal.model_argument import resolve_model
from dure.cli.terminal.option_groups import expanded
from dure.cli.terminal.parameters import (
    Json,
    Model,
    Running,
)
from dure.cli.terminal.running_model import running_model
from dure.cli.terminal.trace_report import Floors, print_trace, trace_figures, write_trace
from dure.engine.executor import FullExecutor, RankFacts, StepStats
from dure.engine.instruments.timed_runs import TimedRuns
from dure.engine.trace import RankTrace
from dure.errors import UsageError
from dure.model.gguf import open_gguf

__all__ = ["bench"]

TRACED = 32  # tokens


@expanded
def bench(
    model: Model,
    *,
    running: Running,
    n_prompt: Annotated[int, typer.Option("-p", "--prompt", help="Tokens of the prompt.")] = 512,
    n_generate: Annotated[int, typer.Option("-n", "--generate", help="Tokens to generate.")] = 128,
    depth: Annotated[
        int, typer.Option("-d", "--depth", help="Tokens that are in the context before.")
    ] = 0,
    repeat: Annotated[int, typer.Option(help="Runs of each; medians are shown.")] = 5,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write where the time of each layer goes, for ui.perfetto.dev, and show it beside "
            "what memory and network allow at best.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure speed, time and bytes per token, and memory, on one rank or cut over several.

    What `dure cluster bench` measures is each machine for itself; this is the model on all of them.

    Example: dure bench models/dure-demo.gguf --ranks 2 -p 128 -n 64
    """
    needed = _tokens_needed(n_prompt, n_generate, depth, repeat, running.ctx)
    file = resolve_model(model)
    with open_gguf(file) as gguf:
        trained = gguf.int(f"{gguf.architecture}.context_length", needed)
    if needed > trained:
        raise UsageError(
            f"-d {depth} with -p {n_prompt} or -n {n_generate} is more than the {trained} tokens this "
            "model was trained for: use fewer"
        )
    options = running.options(ctx=needed)
    with running_model(file, options) as (gguf, executor):
        traced = _traced(executor, trace, min(n_generate, TRACED)) if trace else None
        floors = Floors(executor, gguf, options.wire) if trace else None
        with loading_bar(f"measuring {file.name}") as progress:
            facts = _measure(executor, depth, n_prompt, n_generate, repeat, progress, floors)
        if traced and floors:
            facts["trace"] = trace_figures(traced, floors)
    facts = {"model": str(file), "sync": options.wire.value, **facts}
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _tokens_needed(n_prompt: int, n_generate: int, depth: int, repeat: int, ctx: int | None) -> int:
    """Tokens of the longest run. Raises UsageError for numbers that make no sense."""
    for name, number in (("-p", n_prompt), ("-n", n_generate), ("--repeat", repeat)):
        if number < 1:
            raise UsageError(f"{name} {number}: give a number above 0")
    if depth < 0:
        raise UsageError(f"-d {depth}: give 0 or a number above")
    needed = depth + max(n_prompt, n_generate)
    if ctx is not None and ctx < needed:
        raise UsageError(
            f"--ctx {ctx} is less than the {needed} tokens of a run: raise it, or use smaller -d, -p and -n"
        )
    return needed


def _traced(executor: FullExecutor, path: Path, n_tokens: int) -> list[RankTrace]:
    """Trace a few tokens, and write them to a file."""
    runs = TimedRuns(executor, np.zeros(n_tokens, np.int32), 0)
    runs.generate(n_tokens)  # a warm-up
    executor.trace()
    runs.generate(n_tokens)
    ranks = executor.traced()
    write_trace(path, ranks, executor.facts())
    return ranks


def _measure(
    executor: FullExecutor,
    depth: int,
    n_prompt: int,
    n_generate: int,
    repeat: int,
    progress: Callable[[float], None],
    floors: Floors | None,
) -> dict[str, Any]:
    n_tokens = depth + max(n_prompt, n_generate)
    tokens = np.random.default_rng(0).integers(0, executor.info.n_vocab, n_tokens)
    runs = TimedRuns(executor, tokens.astype(np.int32), depth)
    runs.fill()
    runs.prompt(n_prompt)
    runs.generate(n_generate if floors else 1)
    prompts, generations, steps = [], [], []
    for i in range(repeat):
        prompts.append(n_prompt / runs.prompt(n_prompt))
        progress((i + 1) / (2 * repeat))
    memory = _memory(executor.facts())  # before a floor is measured, which takes memory of its own
    for i in range(repeat):
        if floors:
            floors.measure()
        seconds, stats = runs.generate(n_generate)
        generations.append(n_generate / seconds)
        steps += stats
        progress((repeat + i + 1) / (2 * repeat))
    if floors:
        floors.measure()
    return {
        "ranks": executor.info.n_ranks,
        "threads": executor.info.threads[0],
        "depth": depth,
        "prompt": {"tokens": n_prompt, "tokens_per_s": _spread(prompts)},
        "generation": {"tokens": n_generate, "tokens_per_s": _spread(generations)},
        **_per_token(steps),
        **memory,
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": values,
    }


def _per_token(steps: list[StepStats]) -> dict[str, Any]:
    """Medians over the generated tokens of each rank's milliseconds and bytes, and their means."""

    def by_rank(part: Callable[[StepStats], Sequence[float]]) -> list[float]:
        return [float(x) for x in np.median([part(step) for step in steps], axis=0)]

    times = {
        "compute": [1e3 * x for x in by_rank(lambda step: step.compute_s)],
        "sync": [1e3 * x for x in by_rank(lambda step: step.sync_s)],
        "idle": [1e3 * x for x in by_rank(lambda step: step.idle_s)],
    }
    sent = by_rank(lambda step: step.bytes_sent)
    return {
        "per_token_ms": {name: statistics.mean(values) for name, values in times.items()},
        "per_token_ms_by_rank": times,
        "bytes_sent_per_token": statistics.mean(sent),
        "bytes_sent_per_token_by_rank": sent,
    }


def _memory(ranks: list[RankFacts]) -> dict[str, Any]:
    return {
        "weights_bytes": [rank.weights_bytes for rank in ranks],
        "kv_bytes": [rank.kv_bytes for rank in ranks],
        "peak_memory_bytes": [rank.peak_bytes for rank in ranks],
    }


def _print(facts: dict[str, Any]) -> None:
    token = facts["per_token_ms"]
    if "trace" in facts:
        print_trace(facts["trace"], facts["generation"]["tokens_per_s"]["median"])
    output.print(
        f"ranks {facts['ranks']}, threads of each {facts['threads']}, sums in {facts['sync']}"
        + (f", {facts['depth']} tokens in the context before" if facts["depth"] else "")
    )
    for name in ("prompt", "generation"):
        speed = facts[name]["tokens_per_s"]
        output.print(
            f"{name:<12}{speed['median']:8.2f} tokens/s  ({speed['min']:.2f} to {speed['max']:.2f}, "
            f"{facts[name]['tokens']} tokens, {len(speed['runs'])} runs)"
        )
    output.print(
        f"per token   compute {token['compute']:.2f} ms, sync {token['sync']:.2f} ms, "
        f"idle {token['idle']:.2f} ms, {bytes_text(facts['bytes_sent_per_token'])} sent"
    )
    for rank, peak in enumerate(facts["peak_memory_bytes"]):
        output.print(
            f"rank {rank:<7}peak memory {bytes_text(peak)} (weights "
            f"{bytes_text(facts['weights_bytes'][rank])}, KV cache {bytes_text(facts['kv_bytes'][rank])})"
        )
