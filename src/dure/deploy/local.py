"""Starts a model on this machine: whole in this process, or cut over several ranks.

Chooses context and threads, and cuts the model if needed. Refuses to know clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dure.deploy.adapters import planned
from dure.deploy.deployment import Deployment, deployment_of_shards
from dure.deploy.gpu import (
    RankGpu,
    may_use_gpu,
    offloaded,
    own_gpu,
    placed_on_gpu,
    placed_on_gpus,
    told_of_gpu,
)
from dure.deploy.options import RunOptions, parse_shares
from dure.deploy.rank_memories import with_options
from dure.deploy.reporter import EngineEvent, Reporter
from dure.engine.compute.embedding_table import EmbeddingTable
from dure.engine.compute.gpu import gpus_in_process
from dure.engine.compute.llama import has_amx
from dure.engine.compute.pinning import cores_for
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.engine.ranks.mpi import MpiExecutor, MpiOptions
from dure.errors import GpuMemoryError, ModelError, UsageError
from dure.hardware.gpu import Gpu
from dure.hardware.machine import Machine
from dure.hardware.probe import n_cpus, probe
from dure.model.architectures import ARCHITECTURES, shape_of
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import Shard, cut_model, is_finished, plan_shards
from dure.places import shard_directory
from dure.plan.gpu_layers import GpuLayers, gpus_of_ranks
from dure.plan.memory import (
    DEFAULT_CTX,
    RankMemory,
    check_ctx,
    choose_ctx,
    n_batch_of,
    rank_memory,
    whole_memory,
)

__all__ = [
    "check_local",
    "cut_missing",
    "fewer_layers",
    "left_of",
    "limits_of",
    "memory_of_whole",
    "start_local",
    "table_of",
    "tell_of_gpus",
    "threads_of",
]

LEAST_PART = 0.1  # of the layers that should fit; if these do not, none is tried


@dataclass(frozen=True)
class _Plan:
    """How a model starts on this machine, memory for each rank. cut: over the shards; None: it is whole.

    gpus: each rank's layers that lie on one; None: all are here.
    """

    machine: Machine
    threads: int
    n_ctx: int
    memory: Sequence[RankMemory]
    cut: CutPlan | None = None
    shards: Sequence[Shard] = ()
    gpus: Sequence[GpuLayers | None] = (None,)


def start_local(model: GgufFile, options: RunOptions, reporter: Reporter) -> Deployment:
    """Start a model on this machine. Raises a DureError that names what does not fit, and the cure."""
    part = 1.0  # of the layers that should fit on GPUs
    while True:
        plan = _planned(model, options, part)
        if part == 1:
            _warn_of_slowness(len(plan.memory), plan.threads, plan.machine, reporter)
        try:
            if plan.cut is None:
                return _start_whole(model, plan, options, reporter)
            return _start_cut(model, plan, plan.cut, options, reporter)
        except GpuMemoryError:
            if options.gpu_layers is not None:  # what was asked for is not changed
                raise
            part = fewer_layers(part)


def fewer_layers(part: float) -> float:
    """Return the part of the layers that is tried on a GPU after a larger part did not fit."""
    return 0.75 * part if part > LEAST_PART else 0.0


def check_local(model: GgufFile, options: RunOptions) -> None:
    """Raise what `start_local` would before it writes or loads anything."""
    if may_use_gpu(options):
        # How much of it the memory here must hold is known to the process alone that asks the GPU.
        shares = parse_shares(options.shares, options.ranks)
        if len(shares) > 1:
            plan_cut(model, shares)
        check_ctx(options.ctx, whole_memory(model)[1])
        return
    _planned(model, options)


def _planned(model: GgufFile, options: RunOptions, part: float = 1.0) -> _Plan:
    """Plan a start. part: see `placed_on_gpu`."""
    shares = parse_shares(options.shares, options.ranks)
    machine = probe()
    threads = threads_of(options.threads, len(shares), machine)
    if options.pin:
        cores_for(threads, first=(len(shares) - 1) * threads)
    if len(shares) == 1:
        return _planned_whole(model, options, machine, threads, part)
    cut = plan_cut(model, shares)
    shards = plan_shards(model, cut, shard_directory())
    ranks = [rank_memory(cut, shard.size, machine.features) for shard in shards]
    memory, trained = with_options(ranks, model, options, cut), cut.shape.context_length
    check_ctx(options.ctx, trained)
    found = gpus_of_ranks(gpus_in_process() if may_use_gpu(options) else [], len(shares))
    named = [RankGpu(f"rank {rank}", gpu) for rank, gpu in enumerate(found)]
    gpus = placed_on_gpus(named, model, options, cut, shards, memory, part)
    here = left_of(memory, gpus)
    n_ctx = choose_ctx(options.ctx, trained, here, machine, options.n_sequences)
    return _Plan(machine, threads, n_ctx, memory, cut, shards, gpus)


def left_of(memory: Sequence[RankMemory], gpus: Sequence[GpuLayers | None]) -> list[RankMemory]:
    """Return what each rank's machine holds of it in its own memory."""
    return [gpu.left(rank) if gpu else rank for rank, gpu in zip(memory, gpus, strict=True)]


def _planned_whole(
    model: GgufFile, options: RunOptions, machine: Machine, threads: int, part: float
) -> _Plan:
    """Plan a model in this process."""
    (memory,), trained = _whole(model, options, machine)
    check_ctx(options.ctx, trained)
    asked = options.ctx or min(DEFAULT_CTX, trained)
    gpu = placed_on_gpu(own_gpu(options), model, options, memory, asked, part)
    here = left_of([memory], [gpu])
    n_ctx = choose_ctx(options.ctx, trained, here, machine, options.n_sequences)
    return _Plan(machine, threads, n_ctx, [memory], gpus=[gpu])


def threads_of(asked: int | None, n_ranks: int, machine: Machine) -> int:
    """Return a rank's threads on a machine that n_ranks share. Raises UsageError."""
    if asked is None:
        return max(1, machine.cores // n_ranks)
    if not 1 <= asked <= 512:
        raise UsageError(f"--threads {asked}", "give a number from 1 to 512")
    return asked


def limits_of(
    n_ctx: int,
    threads: int,
    options: RunOptions,
    memory: RankMemory,
    gpu: GpuLayers | None = None,
) -> Limits:
    """Return the limits that each rank's context is created with. memory: of any of them."""
    n = options.n_sequences
    return Limits(
        n_ctx,
        threads,
        n_batch=n_batch_of(n),
        n_sequences=n,
        n_outputs=memory.n_outputs(n),
        lock_memory=options.lock_memory,
        pin=options.pin,
        gives_up_threads=options.threads is None and not options.pin and gpu is None,
        gpu=offloaded(gpu),
    )


def memory_of_whole(
    model: GgufFile,
    options: RunOptions,
    machine: Machine,
    *,
    full_window: bool = False,
    gpu: Gpu | None = None,
) -> tuple[RankMemory, int]:
    """Return what a whole model takes of one machine's memory, and its context. Raises ResourceError.

    full_window: see `Limits`. gpu: that may hold layers.
    """
    (memory,), trained = _whole(model, options, machine, full_window=full_window)
    if gpu:
        asked = options.ctx or min(DEFAULT_CTX, trained)
        placed = placed_on_gpu(gpu, model, options, memory, asked)
        (memory,) = left_of([memory], [placed])
    return memory, choose_ctx(options.ctx, trained, [memory], machine, options.n_sequences)


def _whole(
    model: GgufFile, options: RunOptions, machine: Machine, *, full_window: bool = False
) -> tuple[list[RankMemory], int]:
    memory, trained = whole_memory(model, machine.features)
    if full_window:
        memory = memory.without_window()
    return with_options([memory], model, options), trained


def _start_whole(
    model: GgufFile, plan: _Plan, options: RunOptions, reporter: Reporter
) -> Deployment:
    reporter.event(EngineEvent.LOADS)
    executor = _loaded_whole(model, plan, options, reporter)
    (memory,), (gpu,) = plan.memory, plan.gpus
    if gpu:
        reporter.news(told_of_gpu(gpu))
    return Deployment(
        executor,
        memory.weights_bytes,
        (memory.moved_bytes_per_token,),
        f"whole-gpu{gpu.n}" if gpu else "whole",
        gpus=(gpu,),
    )


def _loaded_whole(
    model: GgufFile, plan: _Plan, options: RunOptions, reporter: Reporter
) -> LocalExecutor:
    (memory,), n_ctx = plan.memory, plan.n_ctx
    known = ARCHITECTURES.get(model.architecture)
    with reporter.loading(model.paths[0].name) as progress:
        return LocalExecutor(
            model.paths[0],
            limits_of(n_ctx, plan.threads, options, memory, *plan.gpus),
            kv_bytes=memory.kv_bytes(n_ctx, options.n_sequences),
            reduction_points=known.reduction_points if known else (),
            table=table_of(model),
            progress=progress,
        )


def table_of(model: GgufFile) -> EmbeddingTable | None:
    """Return a model's table of embeddings, read on demand; None if what is done with them is not known."""
    known = ARCHITECTURES.get(model.architecture)
    if known is None or "output.weight" in model.tensors:
        return None
    try:
        return EmbeddingTable(model, known.embedding_scale(shape_of(model).n_embd))
    except ModelError:  # llama.cpp says better what is wrong
        return None


def _start_cut(
    model: GgufFile, plan: _Plan, cut: CutPlan, options: RunOptions, reporter: Reporter
) -> Deployment:
    reporter.event(EngineEvent.SENDS)
    cut_missing(model, plan.shards, reporter)
    reporter.event(EngineEvent.LOADS)
    with reporter.loading(f"{len(plan.shards)} shards") as loaded:
        executor = MpiExecutor(
            model.paths[0],
            [shard.path for shard in plan.shards],
            cut,
            limits_of(plan.n_ctx, plan.threads, options, plan.memory[0]),
            options=MpiOptions(wire=options.wire),
            kv_bytes=[rank.kv_bytes(plan.n_ctx, options.n_sequences) for rank in plan.memory],
            gpus=[offloaded(gpu) for gpu in plan.gpus],
            progress=loaded,
        )
    tell_of_gpus([f"rank {rank}" for rank in range(len(plan.gpus))], plan.gpus, reporter)
    return deployment_of_shards(
        executor,
        plan.shards,
        plan.memory,
        lambda adapter: _place_adapter(adapter, cut, reporter),
        plan.gpus,
    )


def tell_of_gpus(
    names: Sequence[str], gpus: Sequence[GpuLayers | None], reporter: Reporter
) -> None:
    """Report which ranks' layers lie on GPUs. names: of the ranks or their machines."""
    for name, gpu in zip(names, gpus, strict=True):
        if gpu:
            reporter.news(f"{name}: {told_of_gpu(gpu)}")


def _place_adapter(adapter: GgufFile, cut: CutPlan, reporter: Reporter) -> list[str]:
    """Write each rank's part of an adapter beside its shard; return their names."""
    shards = planned(adapter, cut)
    cut_missing(adapter, shards, reporter)
    return [shard.path.name for shard in shards]


def cut_missing(model: GgufFile, shards: Sequence[Shard], reporter: Reporter) -> None:
    """Write the shards that are not here yet; say nothing if all are."""
    if all(is_finished(shard) for shard in shards):
        return
    with reporter.cutting(model.paths[0].name, model.size_bytes) as progress:
        cut_model(model, shards, progress=progress)


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
