"""Measures an executor's speed, its time and bytes per token, and its memory, as `llama-bench` does.

Random tokens, no sampling: a warm-up, then n prompts and n generations, each from the same KV cache.
Refuses to know how figures are shown, and how a trace is made.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.engine.executor import FullExecutor, RankFacts, StepStats
from dure.engine.instruments.floor import FloorProbe
from dure.engine.instruments.timed_runs import TimedRuns

__all__ = ["BenchResult", "BenchRuns", "RankTimes", "Spread", "TokenRate", "TokenTimes", "measure"]


@dataclass(frozen=True)
class BenchRuns:
    """What to run: each prompt and each generation `repeat` times, from a KV cache of `depth` tokens.

    adapters: what they are computed with.
    """

    n_prompt: int
    n_generate: int
    depth: int
    repeat: int
    adapters: AdapterSet = NO_ADAPTERS

    @property
    def n_tokens(self) -> int:
        """Return the tokens of the longest run."""
        return self.depth + max(self.n_prompt, self.n_generate)


@dataclass(frozen=True)
class Spread:
    """The values of several runs, in their order, and what lies between them."""

    median: float
    min: float
    max: float
    runs: list[float]

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return the spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values), values)


@dataclass(frozen=True)
class TokenRate:
    """The speed of runs of `tokens` tokens each."""

    tokens: int
    tokens_per_s: Spread


@dataclass(frozen=True)
class RankTimes:
    """Each rank's milliseconds per generated token: computing, in all-reduces, and waiting for a step."""

    compute: list[float]
    sync: list[float]
    idle: list[float]


@dataclass(frozen=True)
class TokenTimes:
    """The means of `RankTimes` over the ranks."""

    compute: float
    sync: float
    idle: float


@dataclass(frozen=True)
class BenchResult:
    """What was measured. Lists have one entry a rank; per token means per generated token.

    disturbed: the part of the generated tokens that other programs made slower.
    """

    ranks: int
    threads: int
    depth: int
    prompt: TokenRate
    generation: TokenRate
    per_token_ms: TokenTimes
    per_token_ms_by_rank: RankTimes
    bytes_sent_per_token: float
    bytes_sent_per_token_by_rank: list[float]
    weights_bytes: list[int]
    kv_bytes: list[int]
    peak_memory_bytes: list[int]
    disturbed: float = 0.0


def measure(
    executor: FullExecutor,
    runs: BenchRuns,
    progress: Callable[[float], None] = lambda _: None,
    floor: FloorProbe | None = None,
) -> BenchResult:
    """Measure an executor. floor: probed before each generation and after the last."""
    tokens = np.random.default_rng(0).integers(0, executor.info.n_vocab, runs.n_tokens)
    timed = TimedRuns(executor, tokens.astype(np.int32), runs.depth, runs.adapters)
    timed.fill()
    timed.prompt(runs.n_prompt)
    timed.generate(runs.n_generate if floor else 1)
    prompts: list[float] = []
    for i in range(runs.repeat):
        prompts.append(runs.n_prompt / timed.prompt(runs.n_prompt))
        progress((i + 1) / (2 * runs.repeat))
    memory = executor.facts()  # before the floor is probed, which takes memory of its own
    generations, steps = _generations(timed, runs, progress, floor)
    return _result(executor, runs, memory, prompts, generations, steps)


def _generations(
    timed: TimedRuns,
    runs: BenchRuns,
    progress: Callable[[float], None],
    floor: FloorProbe | None,
) -> tuple[list[float], list[StepStats]]:
    """Return the tokens per second of each generation, and the figures of all steps."""
    rates: list[float] = []
    steps: list[StepStats] = []
    for i in range(runs.repeat):
        if floor:
            floor.measure()
        seconds, stats = timed.generate(runs.n_generate)
        rates.append(runs.n_generate / seconds)
        steps += stats
        progress((runs.repeat + i + 1) / (2 * runs.repeat))
    if floor:
        floor.measure()
    return rates, steps


def _result(
    executor: FullExecutor,
    runs: BenchRuns,
    memory: Sequence[RankFacts],
    prompts: list[float],
    generations: list[float],
    steps: Sequence[StepStats],
) -> BenchResult:
    times = RankTimes(
        [1e3 * x for x in _medians([step.compute_s for step in steps])],
        [1e3 * x for x in _medians([step.sync_s for step in steps])],
        [1e3 * x for x in _medians([step.idle_s for step in steps])],
    )
    sent = _medians([step.bytes_sent for step in steps])
    return BenchResult(
        ranks=executor.info.n_ranks,
        threads=executor.info.threads[0],
        depth=runs.depth,
        prompt=TokenRate(runs.n_prompt, Spread.of(prompts)),
        generation=TokenRate(runs.n_generate, Spread.of(generations)),
        per_token_ms=TokenTimes(*map(statistics.mean, (times.compute, times.sync, times.idle))),
        per_token_ms_by_rank=times,
        bytes_sent_per_token=statistics.mean(sent),
        bytes_sent_per_token_by_rank=sent,
        weights_bytes=[rank.weights_bytes for rank in memory],
        kv_bytes=[rank.kv_bytes for rank in memory],
        peak_memory_bytes=[rank.peak_bytes for rank in memory],
        disturbed=statistics.mean(step.is_disturbed for step in steps),
    )


def _medians(steps: Sequence[Sequence[float]]) -> list[float]:
    """Return each rank's median over the steps."""
    return [float(x) for x in np.median(steps, axis=0)]
