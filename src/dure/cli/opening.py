"""From what the user named to a model that runs: wiring, in one place.

Opens the file, chooses context and threads, cuts what is not cut yet, and starts an executor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from dure.cli.console import errors, loading_bar, progress_bar
from dure.engine.executor import Executor
from dure.engine.llama import Limits, has_amx
from dure.engine.local import LocalExecutor
from dure.engine.mpi import MpiExecutor, MpiOptions
from dure.engine.sums import Wire
from dure.errors import ModelError, UsageError
from dure.hardware.machine import Machine
from dure.hardware.probe import probe
from dure.model.architecture import shape_of
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import GgufFile, open_gguf
from dure.model.shard import Shard, cut_model, plan_shards
from dure.plan.memory import DEFAULT_CTX, RankMemory, choose_ctx, kv_bytes_per_token

__all__ = ["Options", "opened", "parse_shares", "shard_directory"]

MOST_RANKS = 1024
LARGEST_SHARE = 1e9


@dataclass(frozen=True)
class Options:
    """What the user asked for, as given; None is "you choose"."""

    model: Path
    ranks: int | None = None
    shares: str | None = None
    threads: int | None = None
    ctx: int | None = None
    sync: Wire = Wire.Q8


def parse_shares(shares: str | None, ranks: int | None) -> list[float]:
    """One share for every rank. Raises UsageError where they are no numbers, or as many as ranks."""
    if ranks is not None and not 1 <= ranks <= MOST_RANKS:
        raise UsageError(f"--ranks {ranks}: give a number from 1 to {MOST_RANKS}")
    if shares is None:
        return [1.0] * (ranks or 1)
    try:
        numbers = [float(word) for word in shares.split(",")]
    except ValueError:
        raise UsageError(f"--shares {shares}: give a number for every rank, as in 3,2") from None
    if not all(0 < number <= LARGEST_SHARE for number in numbers):
        raise UsageError(f"--shares {shares}: every rank needs a number above 0, as in 3,2")
    if ranks is not None and ranks != len(numbers):
        raise UsageError(f"--shares {shares} names {len(numbers)} ranks, but --ranks says {ranks}")
    return numbers


def shard_directory() -> Path:
    """Where shards are kept: DURE_CACHE, or the user's cache directory."""
    named = os.environ.get("DURE_CACHE")
    return (Path(named) if named else platformdirs.user_cache_path("dure")) / "shards"


@contextmanager
def opened(options: Options) -> Iterator[tuple[GgufFile, Executor]]:
    """A running model, ended when the block ends, whatever happens in it."""
    shares = parse_shares(options.shares, options.ranks)
    machine = probe()
    threads = _threads(options.threads, len(shares), machine)
    with open_gguf(options.model) as model:
        start = _start_one if len(shares) == 1 else _start_many
        executor = start(model, shares, threads, options, machine)
        try:
            yield model, executor
        finally:
            executor.close()


def _threads(asked: int | None, n_ranks: int, machine: Machine) -> int:
    if asked is None:
        return max(1, machine.cores // n_ranks)
    if not 1 <= asked <= 512:
        raise UsageError(f"--threads {asked}: give a number from 1 to 512")
    return asked


def _warn(n_ranks: int, machine: Machine) -> None:
    if n_ranks > machine.cores:
        errors.print(
            f"[yellow]{n_ranks} ranks share the {machine.cores} cores of this machine: right, but "
            "slower than fewer ranks[/yellow]"
        )
    if has_amx():
        errors.print(
            "[yellow]llama.cpp was built with AMX kernels that crash on some machines; they are not "
            "used. `make` builds it without them, and faster than this[/yellow]"
        )


def _start_one(
    model: GgufFile, _shares: Sequence[float], threads: int, options: Options, machine: Machine
) -> Executor:
    memory, trained = _memory_of_whole(model)
    n_ctx = choose_ctx(options.ctx, trained, [memory], machine)
    _warn(1, machine)
    with loading_bar(f"loading {options.model.name}") as progress:
        return LocalExecutor(
            model.paths[0],
            Limits(n_ctx, threads),
            kv_bytes=memory.kv_bytes(n_ctx),
            progress=progress,
        )


def _memory_of_whole(model: GgufFile) -> tuple[RankMemory, int]:
    """A whole model's memory and its trained context; without the KV cache where that is no attention."""
    weights_bytes = sum(tensor.size_bytes for tensor in model.tensors.values())
    try:
        shape = shape_of(model)
    except ModelError:  # llama.cpp may know it all the same, or say better what is wrong
        trained = model.int(f"{model.architecture}.context_length", DEFAULT_CTX)
        return RankMemory(weights_bytes, 0), trained
    per_token = kv_bytes_per_token(shape, shape.n_head_kv)
    return RankMemory(weights_bytes, per_token), shape.context_length


def _start_many(
    model: GgufFile, shares: Sequence[float], threads: int, options: Options, machine: Machine
) -> Executor:
    plan = plan_cut(model, shares)
    shards = plan_shards(model, plan, shard_directory())
    memory = [_rank_memory(plan, shard) for shard in shards]
    n_ctx = choose_ctx(options.ctx, plan.shape.context_length, memory, machine)
    _warn(len(shares), machine)
    with progress_bar(f"cutting {options.model.name}", model.size_bytes) as progress:
        cut_model(model, shards, progress=progress)
    with loading_bar(f"loading {len(shards)} shards") as loaded:
        return MpiExecutor(
            model.paths[0],
            [shard.path for shard in shards],
            plan,
            Limits(n_ctx, threads),
            options=MpiOptions(wire=options.sync),
            kv_bytes=[rank.kv_bytes(n_ctx) for rank in memory],
            progress=loaded,
        )


def _rank_memory(plan: CutPlan, shard: Shard) -> RankMemory:
    return RankMemory(
        shard.weights_bytes,
        kv_bytes_per_token(plan.shape, len(plan.ranks[shard.rank].kv_heads)),
    )
