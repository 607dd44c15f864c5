"""What each rank would hold if a model were cut: a forecast, and nothing is written.

Knows weights, memory and what must be re-encoded. Refuses to know how that is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dure.errors import DureError
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import GgufFile
from dure.model.shard import shard_sizes
from dure.plan.memory import DEFAULT_CTX, rank_memory, whole_memory

__all__ = ["CutReport", "RankSize", "Reencoding", "cut_report", "reencodings"]


@dataclass(frozen=True)
class RankSize:
    """What one rank takes. memory_bytes: of its process, with its contexts; None: not known."""

    weights_bytes: int
    memory_bytes: int | None


@dataclass(frozen=True)
class Reencoding:
    """A tensor whose blocks forbid a cut, and the types it has before and after it."""

    tensor: str
    old: str
    new: str


@dataclass(frozen=True)
class CutReport:
    """A model over n_ranks ranks; `ranks` is empty if it cannot be cut so, and `problem` says why.

    reencoded_bytes: by how much the re-encoded tensors grow over all ranks; they may shrink.
    """

    n_ranks: int
    ranks: tuple[RankSize, ...] = ()
    reencoded: tuple[Reencoding, ...] = ()
    reencoded_bytes: int = 0
    problem: str = ""


def cut_report(
    model: GgufFile,
    shares: Sequence[float],
    features: Collection[str] = (),
    *,
    n_ctx: int | None = None,
    n_sequences: int = 1,
) -> CutReport:
    """Report a cut with a rank for every share; a single rank holds the model as it is.

    features: of the processors that will run it. n_ctx: of each sequence's context; None: the default.
    """
    if len(shares) == 1:
        return CutReport(1, (_whole(model, features, n_ctx, n_sequences),))
    try:
        return _cut(model, plan_cut(model, shares), features, n_ctx, n_sequences)
    except DureError as error:
        return CutReport(len(shares), problem=str(error))


def _whole(
    model: GgufFile, features: Collection[str], n_ctx: int | None, n_sequences: int
) -> RankSize:
    memory, trained = whole_memory(model, features)
    is_known = memory.kv_bytes(1) > 0
    n_ctx = n_ctx or min(DEFAULT_CTX, trained)
    return RankSize(
        memory.weights_bytes, memory.total_bytes(n_ctx, n_sequences) if is_known else None
    )


def _cut(
    model: GgufFile,
    plan: CutPlan,
    features: Collection[str],
    n_ctx: int | None,
    n_sequences: int,
) -> CutReport:
    shards, n_ctx = shard_sizes(model, plan), n_ctx or min(DEFAULT_CTX, plan.shape.context_length)
    memory = [
        rank_memory(plan, shard, features).total_bytes(n_ctx, n_sequences) for shard in shards
    ]
    ranks = (RankSize(shard.weights_bytes, n) for shard, n in zip(shards, memory, strict=True))
    changed = [model.tensors[name] for name in plan.reencoded]
    before = sum(tensor.size_bytes for tensor in changed)
    after = sum(plan.size_bytes(tensor, rank) for tensor in changed for rank in range(len(shards)))
    return CutReport(len(shards), tuple(ranks), reencodings(model, plan), after - before)


def reencodings(model: GgufFile, plan: CutPlan) -> tuple[Reencoding, ...]:
    """Return what a cut re-encodes."""
    return tuple(
        Reencoding(name, model.tensors[name].type.name, type_.name)
        for name, type_ in plan.reencoded.items()
    )
