"""Starts a model on this machine: whole in this process, or cut over several ranks.

Chooses context and threads, and cuts the model if needed. Refuses to know clusters.
"""

from __future__ import annotations

from dure.deploy.deployment import Deployment, deployment_of_shards
from dure.deploy.options import MOST_SEQUENCES, RunOptions, parse_shares
from dure.deploy.reporter import EngineEvent, Reporter
from dure.engine.compute.llama import has_amx
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.engine.ranks.mpi import MpiExecutor, MpiOptions
from dure.errors import UsageError
from dure.hardware.machine import Machine
from dure.hardware.probe import n_cpus, probe
from dure.model.architectures import ARCHITECTURES
from dure.model.cut import plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import cut_model, plan_shards
from dure.places import shard_directory
from dure.plan.memory import (
    RankMemory,
    choose_ctx,
    n_batch_of,
    n_outputs_of,
    rank_memory,
    whole_memory,
)

__all__ = ["limits_of", "memory_of_whole", "start_local", "threads_of"]


def start_local(model: GgufFile, options: RunOptions, reporter: Reporter) -> Deployment:
    """Start a model on this machine. Raises a DureError that names what does not fit, and the cure."""
    shares = parse_shares(options.shares, options.ranks)
    machine = probe()
    threads = threads_of(options.threads, len(shares), machine)
    n = options.n_sequences
    if not 1 <= n <= MOST_SEQUENCES:
        raise UsageError(f"--parallel {n}", f"give a number from 1 to {MOST_SEQUENCES}")
    if len(shares) == 1:
        return _start_whole(model, threads, options, machine, reporter)
    return _start_cut(model, shares, threads, options, machine, reporter)


def threads_of(asked: int | None, n_ranks: int, machine: Machine) -> int:
    """Return a rank's threads on a machine that n_ranks share. Raises UsageError."""
    if asked is None:
        return max(1, machine.cores // n_ranks)
    if not 1 <= asked <= 512:
        raise UsageError(f"--threads {asked}", "give a number from 1 to 512")
    return asked


def limits_of(n_ctx: int, threads: int, options: RunOptions) -> Limits:
    """Return the limits that each rank's context is created with."""
    n = options.n_sequences
    return Limits(
        n_ctx,
        threads,
        n_batch=n_batch_of(n),
        n_sequences=n,
        n_outputs=n_outputs_of(n),
        lock_memory=options.lock_memory,
        pin=options.pin,
        gives_up_threads=options.threads is None and not options.pin,
    )


def memory_of_whole(
    model: GgufFile, options: RunOptions, machine: Machine, *, full_window: bool = False
) -> tuple[RankMemory, int]:
    """Return the memory of a whole model on one machine, and its context. Raises ResourceError.

    full_window: see `Limits`.
    """
    memory, trained = whole_memory(model, machine.features)
    if full_window:
        memory = memory.without_window()
    return memory, choose_ctx(options.ctx, trained, [memory], machine, options.n_sequences)


def _start_whole(
    model: GgufFile, threads: int, options: RunOptions, machine: Machine, reporter: Reporter
) -> Deployment:
    memory, n_ctx = memory_of_whole(model, options, machine)
    known = ARCHITECTURES.get(model.architecture)
    _warn_of_slowness(1, threads, machine, reporter)
    reporter.event(EngineEvent.LOADS)
    with reporter.loading(model.paths[0].name) as progress:
        executor = LocalExecutor(
            model.paths[0],
            limits_of(n_ctx, threads, options),
            kv_bytes=memory.kv_bytes(n_ctx, options.n_sequences),
            reduction_points=known.reduction_points if known else (),
            progress=progress,
        )
    return Deployment(executor, memory.weights_bytes, (memory.moved_bytes_per_token,), "whole")


def _start_cut(
    model: GgufFile,
    shares: list[float],
    threads: int,
    options: RunOptions,
    machine: Machine,
    reporter: Reporter,
) -> Deployment:
    plan = plan_cut(model, shares)
    shards = plan_shards(model, plan, shard_directory())
    memory = [rank_memory(plan, shard, machine.features) for shard in shards]
    n = options.n_sequences
    n_ctx = choose_ctx(options.ctx, plan.shape.context_length, memory, machine, n)
    _warn_of_slowness(len(shares), threads, machine, reporter)
    reporter.event(EngineEvent.SENDS)
    with reporter.cutting(model.paths[0].name, model.size_bytes) as progress:
        cut_model(model, shards, progress=progress)
    reporter.event(EngineEvent.LOADS)
    with reporter.loading(f"{len(shards)} shards") as loaded:
        executor = MpiExecutor(
            model.paths[0],
            [shard.path for shard in shards],
            plan,
            limits_of(n_ctx, threads, options),
            options=MpiOptions(wire=options.wire),
            kv_bytes=[rank.kv_bytes(n_ctx, n) for rank in memory],
            progress=loaded,
        )
    return deployment_of_shards(executor, shards, memory)


def _warn_of_slowness(n_ranks: int, threads: int, machine: Machine, reporter: Reporter) -> None:
    if n_ranks > machine.cores:
        reporter.warn(
            f"{n_ranks} ranks share the {machine.cores} cores of this machine: right, but slower "
            "than fewer ranks"
        )
    elif n_ranks * threads > n_cpus():
        reporter.warn(
            f"{n_ranks * threads} threads share the {n_cpus()} processors of this machine and wait "
            f"for each other: --threads {machine.cores // n_ranks} is faster"
        )
    if has_amx():
        reporter.warn(
            "llama.cpp was built with AMX kernels that crash on some machines; they are not used. "
            "`make` builds it without them, and faster than this"
        )
