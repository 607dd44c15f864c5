"""From a model file and a few wishes to an executor that runs: wiring, in one place.

Chooses context and threads, cuts what is not cut yet, and starts the ranks. Tells its progress to
functions it is given, and refuses to know terminals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from dure.deploy.threads import tune_threads
from dure.engine.compute.allreduce import Wire
from dure.engine.compute.llama import has_amx
from dure.engine.executor import FullExecutor
from dure.engine.limits import Limits
from dure.engine.local import LocalExecutor
from dure.engine.ranks.mpi import MpiExecutor, MpiOptions
from dure.errors import ModelError, UsageError
from dure.hardware.machine import Machine
from dure.hardware.probe import n_cpus, probe
from dure.model.architectures import ARCHITECTURES, Along, shape_of
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import Shard, cut_model, plan_shards
from dure.places import cache_directory, shard_directory
from dure.plan.memory import DEFAULT_CTX, RankMemory, choose_ctx, kv_bytes_per_token
from dure.worker.lifecycle import Happening

__all__ = [
    "Listener",
    "Opened",
    "Silent",
    "Wishes",
    "limits_of",
    "memory_of_whole",
    "open_executor",
    "opened_many",
    "parse_shares",
    "rank_memory",
    "threads_of",
]

MOST_RANKS = 1024
MOST_SEQUENCES = 128  # llama.cpp's own limit is 256
LARGEST_SHARE = 1e9
LEAST_OUTPUTS = 32
PREFILL = 512  # tokens of prompts in a step; those of running answers come on top


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; None is "you choose".

    ctx: the longest prompt with its answer. parallel: answers at once, each with a context of its own.
    cluster: on the cluster's machines, one rank each; else all on this one. nodes: exactly these, or
    "all"; None: those that make it faster. interface: this machine's network device towards the nodes;
    None: the one that leads there. grace_s: how long a node that is missing is waited for,
    before it goes on without; 0 fails at once.
    mlock: weights are never swapped out. pin: each thread is held to a core of its own.
    ended: why the engine before this one ended; silent_s: when its answers had stood still for so long.
    """

    ranks: int | None = None
    shares: str | None = None
    threads: int | None = None
    ctx: int | None = None
    parallel: int = 1
    sync: Wire = Wire.Q8
    cluster: bool = False
    nodes: str | None = None
    interface: str | None = None
    grace_s: float = 0.0
    ended: str = ""
    silent_s: float = 0.0
    mlock: bool = False
    pin: bool = False


class Listener(Protocol):
    """Is told what takes long, and what is worth a warning."""

    def cutting(
        self, name: str, total_bytes: int, /
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A model is being cut; the function is told of more bytes."""

    def loading(self, what: str, /) -> AbstractContextManager[Callable[[float], None]]:
        """Weights are being loaded; the function is told how much of them, 0 to 1."""

    def doing(self, what: str, /) -> AbstractContextManager[Callable[[float], None]]:
        """Something else takes long; the function is told how much of it is done, 0 to 1."""

    def happened(self, happening: Happening, /) -> None:
        """The start of the engine has come so far."""

    def news(self, text: str, /) -> None:
        """Something happened to a machine."""

    def warn(self, text: str, /) -> None:
        """Something is right, but slower than need be."""


class Silent:
    """Listens to nothing."""

    def cutting(
        self, _name: str, _total_bytes: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Nobody looks."""
        return nullcontext(lambda _: None)

    def loading(self, _what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Nobody looks."""
        return nullcontext(lambda _: None)

    def doing(self, _what: str) -> AbstractContextManager[Callable[[float], None]]:
        """Nobody looks."""
        return nullcontext(lambda _: None)

    def happened(self, _happening: Happening) -> None:
        """Nobody asks."""

    def news(self, _text: str) -> None:
        """Nobody listens."""

    def warn(self, _text: str) -> None:
        """Nobody listens."""


@dataclass(frozen=True)
class Opened:
    """An executor, the bytes of its weights, of each rank's KV cache for one position, its cut's name.

    why_again: why it should start again when it is quiet, as with a machine that is back; "" where not.
    note: keeps an event with its facts. learn: is told the seconds that each rank computes in a step.
    """

    executor: FullExecutor
    weights_bytes: int
    kv_token_bytes: tuple[int, ...]
    cut_name: str
    why_again: Callable[[], str] = lambda: ""
    note: Callable[[str, Mapping[str, Any]], None] = lambda _event, _facts: None
    learn: Callable[[Sequence[float]], None] = lambda _seconds: None


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


def open_executor(model: GgufFile, wishes: Wishes, listener: Listener | None = None) -> Opened:
    """Start a model. Raises a DureError that says what does not fit, and how to mend it."""
    listener = listener or Silent()
    opened = _open(model, wishes, listener)
    if wishes.threads is None and max(opened.executor.info.threads) > 1:
        key = f"{model.fingerprint[:16]}-{opened.cut_name}"
        try:
            tune_threads(
                opened.executor,
                key,
                cache_directory() / "threads.json",
                may_measure=not wishes.ended,  # answers wait
            )
        except BaseException:
            opened.executor.close()
            raise
    return opened


def _open(model: GgufFile, wishes: Wishes, listener: Listener) -> Opened:
    if not wishes.cluster and (wishes.nodes or wishes.interface):
        raise UsageError("--nodes and --interface are for --cluster: add that, or leave them out")
    if wishes.cluster:
        from dure.deploy.cluster import start_on_cluster

        return start_on_cluster(model, wishes, listener)
    shares = parse_shares(wishes.shares, wishes.ranks)
    machine = probe()
    threads = threads_of(wishes.threads, len(shares), machine)
    if not 1 <= wishes.parallel <= MOST_SEQUENCES:
        raise UsageError(f"--parallel {wishes.parallel}: give a number from 1 to {MOST_SEQUENCES}")
    start = _start_one if len(shares) == 1 else _start_many
    return start(model, shares, threads, wishes, machine, listener)


def threads_of(asked: int | None, n_ranks: int, machine: Machine) -> int:
    """A rank's threads on a machine that n_ranks share. Raises UsageError."""
    if asked is None:
        return max(1, machine.cores // n_ranks)
    if not 1 <= asked <= 512:
        raise UsageError(f"--threads {asked}: give a number from 1 to 512")
    return asked


def _warn(n_ranks: int, threads: int, machine: Machine, listener: Listener) -> None:
    if n_ranks > machine.cores:
        listener.warn(
            f"{n_ranks} ranks share the {machine.cores} cores of this machine: right, but slower "
            "than fewer ranks"
        )
    elif n_ranks * threads > n_cpus():
        listener.warn(
            f"{n_ranks * threads} threads share the {n_cpus()} processors of this machine and wait "
            f"for each other: --threads {machine.cores // n_ranks} is faster"
        )
    if has_amx():
        listener.warn(
            "llama.cpp was built with AMX kernels that crash on some machines; they are not used. "
            "`make` builds it without them, and faster than this"
        )


def limits_of(n_ctx: int, threads: int, wishes: Wishes) -> Limits:
    """What each rank's context is made for."""
    return Limits(
        n_ctx,
        threads,
        n_batch=PREFILL + (wishes.parallel if wishes.parallel > 1 else 0),
        n_sequences=wishes.parallel,
        n_outputs=max(LEAST_OUTPUTS, wishes.parallel),
        lock_memory=wishes.mlock,
        pin=wishes.pin,
    )


def _start_one(
    model: GgufFile,
    _shares: Sequence[float],
    threads: int,
    wishes: Wishes,
    machine: Machine,
    listener: Listener,
) -> Opened:
    memory, n_ctx = memory_of_whole(model, wishes, machine)
    known = ARCHITECTURES.get(model.architecture)
    _warn(1, threads, machine, listener)
    listener.happened(Happening.LOADS)
    with listener.loading(model.paths[0].name) as progress:
        executor = LocalExecutor(
            model.paths[0],
            limits_of(n_ctx, threads, wishes),
            kv_bytes=memory.kv_bytes(n_ctx, wishes.parallel),
            reduction_points=known.reduction_points if known else (),
            progress=progress,
        )
    return Opened(executor, memory.weights_bytes, (memory.kv_bytes_per_token,), "whole")


def memory_of_whole(model: GgufFile, wishes: Wishes, machine: Machine) -> tuple[RankMemory, int]:
    """What a whole model takes on one machine, and its context there. Raises ResourceError.

    Without the KV cache where the model has no attention.
    """
    weights_bytes = sum(tensor.size_bytes for tensor in model.tensors.values())
    try:
        shape = shape_of(model)
    except ModelError:  # llama.cpp may know it all the same, or say better what is wrong
        trained = model.int(f"{model.architecture}.context_length", DEFAULT_CTX)
        memory = RankMemory(weights_bytes, 0)
    else:
        trained = shape.context_length
        memory = RankMemory(weights_bytes, kv_bytes_per_token(shape, shape.n_head_kv))
    return memory, choose_ctx(wishes.ctx, trained, [memory], machine, wishes.parallel)


def _start_many(
    model: GgufFile,
    shares: Sequence[float],
    threads: int,
    wishes: Wishes,
    machine: Machine,
    listener: Listener,
) -> Opened:
    plan = plan_cut(model, shares)
    shards = plan_shards(model, plan, shard_directory())
    memory = [rank_memory(plan, shard) for shard in shards]
    n_ctx = choose_ctx(wishes.ctx, plan.shape.context_length, memory, machine, wishes.parallel)
    _warn(len(shares), threads, machine, listener)
    listener.happened(Happening.SENDS)
    with listener.cutting(model.paths[0].name, model.size_bytes) as progress:
        cut_model(model, shards, progress=progress)
    listener.happened(Happening.LOADS)
    with listener.loading(f"{len(shards)} shards") as loaded:
        executor = MpiExecutor(
            model.paths[0],
            [shard.path for shard in shards],
            plan,
            limits_of(n_ctx, threads, wishes),
            options=MpiOptions(wire=wishes.sync),
            kv_bytes=[rank.kv_bytes(n_ctx, wishes.parallel) for rank in memory],
            progress=loaded,
        )
    return opened_many(executor, shards, memory)


def opened_many(
    executor: FullExecutor, shards: Sequence[Shard], memory: Sequence[RankMemory]
) -> Opened:
    """An executor of these shards, with what it holds in all."""
    names = "".join(shard.name for shard in shards)
    return Opened(
        executor,
        sum(rank.weights_bytes for rank in memory),
        tuple(rank.kv_bytes_per_token for rank in memory),
        hashlib.blake2b(names.encode(), digest_size=8).hexdigest(),
    )


def rank_memory(plan: CutPlan, shard: Shard) -> RankMemory:
    """What a rank of a cut takes."""
    return RankMemory(
        shard.weights_bytes,
        kv_bytes_per_token(plan.shape, len(plan.ranks[shard.rank][Along.KV_HEADS])),
    )
