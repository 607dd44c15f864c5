"""How much memory a model takes: pure arithmetic over shapes, cuts and contexts.

Knows what llama.cpp allocates. Refuses to look at any machine: it is given a `Machine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dure.errors import ModelError, ResourceError, UsageError
from dure.hardware.machine import Machine
from dure.model.architectures import Along, Shape, shape_of
from dure.model.context import CTX_GRAIN, padded_ctx
from dure.model.cut import CutPlan
from dure.model.gguf import GgufFile
from dure.model.shard import Shard

__all__ = [
    "DEFAULT_CTX",
    "PROCESS_BYTES",
    "RankMemory",
    "choose_ctx",
    "kv_bytes_per_token",
    "rank_memory",
    "tokens_moved_in_a_pass",
    "whole_memory",
]

DEFAULT_CTX = 4096
F16_BYTES = 2
# Beside weights and KV cache: Python, MPI, llama.cpp's compute buffers.
PROCESS_BYTES = 300_000_000
_TOUCHED_IN_A_MOVE = 4  # read and written, out of the KV cache and into it again


def kv_bytes_per_token(shape: Shape, n_head_kv: int) -> int:
    """Return the bytes of the KV cache (float16) for one position on a rank with n_head_kv KV heads."""
    return shape.n_layer * n_head_kv * (shape.key_length + shape.value_length) * F16_BYTES


def tokens_moved_in_a_pass(weights_bytes: int, kv_bytes_per_token: int) -> int:
    """Return how many tokens' KV cache moves to another sequence while all weights are read once.

    0 if that is not known, as for a model with a running state instead of a KV cache.
    """
    if not kv_bytes_per_token:
        return 0
    return weights_bytes // (_TOUCHED_IN_A_MOVE * kv_bytes_per_token)


@dataclass(frozen=True)
class RankMemory:
    """One rank's memory: bytes of weights, and of the KV cache for each position."""

    weights_bytes: int
    kv_bytes_per_token: int

    def total_bytes(self, n_ctx: int, n_sequences: int = 1) -> int:
        """Return what the rank's process takes with n_sequences contexts of n_ctx."""
        return self.weights_bytes + self.kv_bytes(n_ctx, n_sequences) + PROCESS_BYTES

    def kv_bytes(self, n_ctx: int, n_sequences: int = 1) -> int:
        """Return the bytes of a KV cache of n_sequences contexts of n_ctx, which llama.cpp rounds up."""
        return self.kv_bytes_per_token * padded_ctx(n_ctx) * n_sequences


def rank_memory(plan: CutPlan, shard: Shard) -> RankMemory:
    """Return what a rank of a cut takes."""
    n_head_kv = len(plan.ranks[shard.rank][Along.KV_HEADS])
    return RankMemory(shard.weights_bytes, kv_bytes_per_token(plan.shape, n_head_kv))


def whole_memory(model: GgufFile) -> tuple[RankMemory, int]:
    """Return what a whole model takes on one machine, and the context it was trained for.

    Without the KV cache if the header does not say enough, as of a model without attention.
    """
    weights_bytes = sum(tensor.size_bytes for tensor in model.tensors.values())
    try:
        shape = shape_of(model)
    except ModelError:  # llama.cpp may know it all the same, or say better what is wrong
        trained = model.int(f"{model.architecture}.context_length", DEFAULT_CTX)
        return RankMemory(weights_bytes, 0), trained
    kv_bytes = kv_bytes_per_token(shape, shape.n_head_kv)
    return RankMemory(weights_bytes, kv_bytes), shape.context_length


def choose_ctx(
    asked: int | None,
    trained: int,
    ranks: Sequence[RankMemory],
    machine: Machine,
    n_sequences: int = 1,
) -> int:
    """Choose the context to run with when all `ranks` share `machine`: what was asked for, or a default.

    Each of n_sequences has a context of its own.
    Raises UsageError if `asked` makes no sense, ResourceError if it does not fit the memory.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"--ctx {asked}: give a number of tokens above 0, as in {DEFAULT_CTX}")
    if asked is not None and asked > trained:
        raise UsageError(
            f"--ctx {asked} is more than the {trained} tokens this model was trained for: "
            f"use at most --ctx {trained}"
        )
    n_ctx = asked or min(DEFAULT_CTX, trained)
    needed = sum(rank.total_bytes(n_ctx, n_sequences) for rank in ranks)
    if needed > machine.available_bytes:
        raise ResourceError(_too_large(n_ctx, n_sequences, needed, ranks, machine))
    return n_ctx


def _too_large(
    n_ctx: int, n_sequences: int, needed: int, ranks: Sequence[RankMemory], machine: Machine
) -> str:
    fixed = sum(rank.total_bytes(0) for rank in ranks)
    per_token = n_sequences * sum(rank.kv_bytes_per_token for rank in ranks)
    most = (machine.available_bytes - fixed) // max(1, per_token) // CTX_GRAIN * CTX_GRAIN
    fewer = ", or a smaller --parallel" if n_sequences > 1 else ""
    cure = (
        f"use --ctx {most} or less{fewer}"
        if most >= CTX_GRAIN
        else "even the weights do not fit: use a smaller or more quantized model, or more machines"
    )
    what = (
        f"{n_sequences} contexts of {n_ctx} tokens need"
        if n_sequences > 1
        else (f"a context of {n_ctx} tokens needs")
    )
    under = f" within {machine.memory_limit}" if machine.memory_limit else ""
    return (
        f"{what} {needed / 1e9:.2f} GB in all, but {machine.available_bytes / 1e9:.2f} GB are "
        f"free{under}: {cure}"
    )
