"""What a token asks of each rank: weights to read and multiply, what is kept of a context, what travels.

Knows models and cuts. Refuses to know devices, and how fast anything is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum

from dure.errors import ModelError
from dure.model.alike import alike_tensors
from dure.model.architectures import Along, Shape, shape_of
from dure.model.cut import CutPlan, plan_cut
from dure.model.gguf import GgufFile, Tensor
from dure.model.shard import shard_sizes
from dure.plan.kernels import is_quick
from dure.plan.memory import RankMemory, rank_memory, whole_memory
from dure.plan.type_times import read_part

__all__ = ["Demand", "Product", "ProductKind", "RankDemand", "demand_of"]


class ProductKind(Enum):
    """What a matrix is for."""

    LAYER = "a layer"
    EXPERTS = "experts"
    OUTPUT = "logits"


@dataclass(frozen=True)
class Product:
    """Matrices of one type and kind. n_bytes, n_weights: that a token reads and multiplies with.

    ffn_weights: those of feed-forwards among them.
    n_columns: of the vectors that go into and come out of these matrices.
    all_bytes: of all experts. has_tiles: whether the processor has quick kernels for this type and shape.
    """

    type: str
    kind: ProductKind
    has_tiles: bool
    n_bytes: float = 0.0
    n_weights: float = 0.0
    n_columns: float = 0.0
    ffn_weights: float = 0.0
    all_bytes: float = 0.0


@dataclass(frozen=True)
class RankDemand:
    """What one rank reads and keeps. attention_values: that a token multiplies with at each position."""

    share: float
    products: tuple[Product, ...]
    memory: RankMemory
    attention_values: float

    @property
    def read_bytes(self) -> float:
        """Return the weights that a token reads."""
        return sum(one.n_bytes for one in self.products)

    def kv_bytes(self, depth: int) -> float:
        """Return what a token reads of `depth` tokens before it."""
        memory = self.memory
        window = min(depth, memory.n_window) * memory.window_bytes_per_token
        return depth * memory.kv_bytes_per_token + window + memory.state_bytes


@dataclass(frozen=True)
class Demand:
    """A model over ranks. whole: on one rank. part_of_experts: that a token uses."""

    ranks: tuple[RankDemand, ...]
    whole: RankDemand
    n_layer: int
    n_embd: int
    n_vocab: int
    context_length: int
    part_of_experts: float
    cut: CutPlan | None = field(default=None, compare=False)

    @property
    def n_sums(self) -> int:
        """Return the sums over ranks of a token: two of each layer."""
        return 2 * self.n_layer

    @property
    def n_ranks(self) -> int:
        """Return the number of ranks."""
        return len(self.ranks)


def demand_of(
    model: GgufFile,
    shares: Sequence[float] = (1.0,),
    features: Sequence[Collection[str]] = (),
) -> Demand:
    """Return what a model asks of ranks with these shares. features: of each one's processor.

    Raises CutError if it cannot be cut so, ModelError if its header does not say enough.
    """
    shape = shape_of(model)
    features = features or [()] * len(shares)
    memory, trained = whole_memory(model, features[0])
    used = _part_of_experts(model, shape)
    products = _products(model, features[0], used)
    whole = RankDemand(1.0, products, memory, _attention_values(shape, shape.n_head))
    ranks: tuple[RankDemand, ...] = (whole,)
    cut = None
    if len(shares) > 1:
        cut = plan_cut(model, shares)
        ranks = tuple(_ranks(model, cut, features, used))
    return Demand(ranks, whole, shape.n_layer, shape.n_embd, shape.n_vocab, trained, used, cut)


def _part_of_experts(model: GgufFile, shape: Shape) -> float:
    """Return the part of all experts that a token uses. Raises ModelError if it is none."""
    if not shape.n_expert:
        return 1.0
    if not 0 < shape.n_expert_used <= shape.n_expert:
        raise ModelError(
            f"{model.paths[0].name}: {shape.n_expert_used} of {shape.n_expert} experts are used",
            "its header is damaged, get the file again",
        )
    return shape.n_expert_used / shape.n_expert


def _ranks(
    model: GgufFile, cut: CutPlan, features: Sequence[Collection[str]], used: float
) -> list[RankDemand]:
    total = sum(cut.shares)
    return [
        RankDemand(
            share / total,
            _products(model, features[rank], used, cut, rank),
            rank_memory(cut, shard, features[rank]),
            _attention_values(cut.shape, len(cut.ranks[rank][Along.HEADS])),
        )
        for rank, (share, shard) in enumerate(zip(cut.shares, shard_sizes(model, cut), strict=True))
    ]


def _attention_values(shape: Shape, n_head: int) -> float:
    """Return the numbers of a position's keys and values that queries meet, over all layers.

    As many layers as keep all positions; windows are short beside a context that counts.
    """
    each = shape.n_head_kv * (shape.key_length + shape.value_length)
    n_layer = shape.cache.values / each if each else 0.0
    return n_layer * n_head * (shape.key_length + shape.value_length)


def _products(
    model: GgufFile,
    features: Collection[str],
    used: float,
    cut: CutPlan | None = None,
    rank: int = 0,
) -> tuple[Product, ...]:
    """Add up the matrices of a rank that are alike."""
    sums: dict[tuple[str, ProductKind, bool], list[float]] = defaultdict(lambda: [0.0] * 5)
    for tensor, n in alike_tensors(model):
        kind = _kind(tensor)
        part = used if kind is ProductKind.EXPERTS else read_part(model, tensor)
        if not part or len(tensor.shape) < 2:
            continue
        shape = tensor.shape if cut is None else cut.shape_of(tensor, rank)
        type_ = tensor.type if cut is None else cut.type_of(tensor)
        n_weights = math.prod(shape)
        n_bytes = n_weights / type_.block_size * type_.type_size
        found = sums[type_.name, kind, is_quick(type_.name, shape[1], features)]
        columns = math.prod(shape[2:]) * (shape[0] + shape[1])
        of_ffn = part * n_weights if ".ffn_" in tensor.name else 0.0
        values = part * n_bytes, part * n_weights, part * columns, of_ffn, n_bytes
        for i, value in enumerate(values):
            found[i] += n * value
    return tuple(Product(*key, *values) for key, values in sums.items())


def _kind(tensor: Tensor) -> ProductKind:
    if "_exps." in tensor.name:
        return ProductKind.EXPERTS
    is_output = tensor.name in {"output.weight", "token_embd.weight"}
    return ProductKind.OUTPUT if is_output else ProductKind.LAYER
