"""Decide how a model is cut: a legal plan from shares, as data.

Knows which borders are legal (whole KV-head groups, whole blocks) and what a rank then holds.
Refuses to know where the shares come from (`plan`) and how bytes are moved (`shard`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dure.errors import CutError
from dure.model.alike import alike_tensors
from dure.model.architectures import (
    Along,
    Architecture,
    Rule,
    Shape,
    architecture_of,
    shape_of,
)
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf import GgufFile, Tensor

__all__ = [
    "COUNTED",
    "CutPlan",
    "RankCut",
    "Span",
    "apportion",
    "plan_cut",
    "rank_cut",
    "whole_cut",
]

ROW_GRAIN = 32  # rows of a column-parallel tensor: llama.cpp's repacked kernels want multiples of 8
# What llama.cpp's own quantizer falls back to if 256-blocks do not fit.
_FALLBACK = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "Q8_K": "Q8_0",
}
_FALLBACK_OF_SMALL = "Q4_0"  # all other types with blocks of 256 have fewer than 4.5 bits
_LAST_RESORT = "F16"  # has no blocks


@dataclass(frozen=True)
class Span:
    """A half-open range [start, stop)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def times(self, width: int) -> Span:
        """Return the same range counted in units `width` times smaller."""
        return Span(self.start * width, self.stop * width)


RankCut = Mapping[Along, Span]
"""What one rank holds along every axis that is cut; of each layer, or of the vocabulary."""

COUNTED = (Along.HEADS, Along.KV_HEADS, Along.FFN, Along.VOCABULARY)
"""What a cut is decided in; other axes follow. A shard's name depends on their order."""


def rank_cut(shape: Shape, counted: Iterable[Span]) -> RankCut:
    """Return what a rank holds along every axis. counted: its spans of `COUNTED`."""
    cut = dict(zip(COUNTED, counted, strict=True))
    heads, kv_heads = cut[Along.HEADS], cut[Along.KV_HEADS]
    return {
        **cut,
        Along.QUERY: heads.times(shape.key_length),
        Along.CONTEXT: heads.times(shape.value_length),
        Along.KEY: kv_heads.times(shape.key_length),
        Along.VALUE: kv_heads.times(shape.value_length),
    }


def whole_cut(shape: Shape) -> RankCut:
    """Return what a single rank would hold: everything."""
    lengths = (shape.n_head, shape.n_head_kv, shape.n_ff, shape.n_vocab)
    return rank_cut(shape, (Span(0, length) for length in lengths))


@dataclass(frozen=True)
class CutPlan:
    """A legal cut of one model over `len(ranks)` ranks.

    `reencoded`: tensors whose blocks forbid the cut, with the type they are re-encoded into.
    """

    shape: Shape
    architecture: Architecture
    shares: tuple[float, ...]
    ranks: tuple[RankCut, ...]
    reencoded: Mapping[str, GgmlType]

    def span(self, rule: Rule, rank: int) -> Span | None:
        """Return what a rank holds of a tensor's cut axis, or None if it is not cut."""
        return self.ranks[rank].get(rule.along)

    def type_of(self, tensor: Tensor) -> GgmlType:
        """Return the type that a tensor has in the shards."""
        return self.reencoded.get(tensor.name, tensor.type)

    def shape_of(self, tensor: Tensor, rank: int) -> tuple[int, ...]:
        """Return a tensor's shape on a rank, in ggml's order."""
        rule = self.architecture.rule(tensor.name)
        span = self.span(rule, rank)
        if span is None:
            return tensor.shape
        return (*tensor.shape[: rule.axis], len(span), *tensor.shape[rule.axis + 1 :])

    def size_bytes(self, tensor: Tensor, rank: int) -> int:
        """Return the bytes of a tensor on a rank."""
        row, *rest = self.shape_of(tensor, rank)
        return self.type_of(tensor).row_bytes(row) * math.prod(rest)


def plan_cut(model: GgufFile, shares: Sequence[float]) -> CutPlan:
    """Plan how `model` is cut over `len(shares)` ranks, each getting about its share of the work.

    Raises CutError if no legal cut exists, ModelError if the model's header lacks a size.
    """
    _check_shares(shares)
    architecture, shape = architecture_of(model), shape_of(model)
    _check_tensors(model, architecture, shape)
    attention, attention_types = _cut_attention(model, architecture, shape, shares)
    ffn, ffn_types = _cut_ffn(model, architecture, shape, shares)
    vocabulary = _cut_rows(shape.n_vocab, shares, (ROW_GRAIN, 8, 1), "vocabulary rows")
    ranks = tuple(
        rank_cut(shape, (heads, kv_heads, columns, rows))
        for (heads, kv_heads), columns, rows in zip(attention, ffn, vocabulary, strict=True)
    )
    return CutPlan(shape, architecture, tuple(shares), ranks, {**attention_types, **ffn_types})


def _check_shares(shares: Sequence[float]) -> None:
    if not shares or any(not math.isfinite(share) or share <= 0 for share in shares):
        raise CutError(
            f"shares {','.join(f'{s:g}' for s in shares)}",
            "every rank needs a number above 0, as in 3,2",
        )


def _check_tensors(model: GgufFile, architecture: Architecture, shape: Shape) -> None:
    """Check that every tensor is in the table, and as long along its cut axis as the header says."""
    whole = whole_cut(shape)
    for tensor, _ in alike_tensors(model):
        rule = architecture.rule(tensor.name)
        span = whole.get(rule.along)
        if span is not None and (
            len(tensor.shape) <= rule.axis or tensor.shape[rule.axis] != len(span)
        ):
            raise CutError(
                f"tensor {tensor.name} has shape {list(tensor.shape)}, but the header says "
                f"{len(span)} {rule.along.value}",
                "this file cannot be cut, run it on one rank",
            )


def apportion(n_units: int, shares: Sequence[float]) -> list[int]:
    """Divide whole units by shares, at least one each, so that the largest count / share is smallest.

    Ranks wait for the slowest one at every all-reduce, so what counts is who has most for its share
    (D'Hondt's method). Raises ValueError if there are fewer units than shares.
    """
    n = len(shares)
    if n_units < n:
        raise ValueError(f"{n_units} units cannot be divided over {n}")
    counts = [1] * n
    heap = [(2 / share, i) for i, share in enumerate(shares)]  # with one unit more
    heapq.heapify(heap)
    for _ in range(n_units - n):
        _, i = heap[0]
        counts[i] += 1
        heapq.heapreplace(heap, ((counts[i] + 1) / shares[i], i))
    return counts


def _spans(counts: Iterable[int], unit: int, total: int, start: int = 0) -> list[Span]:
    """Return consecutive spans of `counts` units each, the last one ending at `total`."""
    spans: list[Span] = []
    for count in counts:
        stop = min(start + count * unit, total)
        spans.append(Span(start, stop))
        start = stop
    return spans


def _cut_rows(total: int, shares: Sequence[float], units: Iterable[int], what: str) -> list[Span]:
    """Cut `total` at multiples of the first unit that leaves one for every rank."""
    for unit in units:
        n_units = -(-total // unit)
        if n_units >= len(shares):
            return _spans(apportion(n_units, shares), unit, total)
    raise CutError(f"{total} {what} cannot be cut over {len(shares)} ranks", "use fewer ranks")


def _row_parallel(model: GgufFile, architecture: Architecture, along: Along) -> list[Tensor]:
    """Return the weights whose rows are cut, so that their blocks must stay whole."""
    wanted = Rule(along, 0)
    return [
        t
        for t in model.tensors.values()
        if t.name.endswith(".weight") and architecture.rule(t.name) == wanted
    ]


def _block(tensors: Iterable[Tensor]) -> int:
    return math.lcm(*(t.type.block_size for t in tensors))


def _cut_ffn(
    model: GgufFile, architecture: Architecture, shape: Shape, shares: Sequence[float]
) -> tuple[list[Span], dict[str, GgmlType]]:
    tensors = _row_parallel(model, architecture, Along.FFN)
    block = _block(tensors)
    units = (math.lcm(block, ROW_GRAIN), math.lcm(block, 8), block, ROW_GRAIN, 8, 1)
    spans = _cut_rows(shape.n_ff, shares, units, "feed-forward columns")
    return spans, _reencode(tensors, spans)


def _cut_attention(
    model: GgufFile, architecture: Architecture, shape: Shape, shares: Sequence[float]
) -> tuple[list[tuple[Span, Span]], dict[str, GgmlType]]:
    """Return (query heads, KV heads) of every rank, and what must be re-encoded for it."""
    if len(shares) > shape.n_head:
        raise CutError(
            f"{len(shares)} ranks are more than the {shape.n_head} query heads of this model",
            f"use at most {shape.n_head} ranks",
        )
    tensors = _row_parallel(model, architecture, Along.CONTEXT)
    cut_heads = _cut_groups if len(shares) <= shape.n_head_kv else _cut_inside_groups
    for block in (_block(tensors), 32, 1):
        heads = cut_heads(shape, shares, block)
        if heads is not None:
            columns = [h.times(shape.value_length) for h, _ in heads]
            return heads, _reencode(tensors, columns)
    raise AssertionError("with blocks of 1 every head is a legal border")


def _cut_groups(
    shape: Shape, shares: Sequence[float], block: int
) -> list[tuple[Span, Span]] | None:
    """Give every rank whole KV-head groups; None if blocks forbid it."""
    width = shape.group * shape.value_length
    unit = block // math.gcd(block, width)
    n_units = -(-shape.n_head_kv // unit)
    if n_units < len(shares):
        return None
    spans = _spans(apportion(n_units, shares), unit, shape.n_head_kv)
    return [(span.times(shape.group), span) for span in spans]


def _cut_inside_groups(
    shape: Shape, shares: Sequence[float], block: int
) -> list[tuple[Span, Span]] | None:
    """Let several ranks hold a KV head and divide its query heads; None if blocks forbid it."""
    unit = block // math.gcd(block, shape.value_length)
    n_units = -(-shape.group // unit)
    heads: list[tuple[Span, Span]] = []
    for kv_head, members in enumerate(_ranks_by_kv_head(shares, shape.n_head_kv, shape.group)):
        if n_units < len(members):
            return None
        first = kv_head * shape.group
        spans = _spans(apportion(n_units, members), unit, first + shape.group, first)
        heads += [(span, Span(kv_head, kv_head + 1)) for span in spans]
    return heads


def _ranks_by_kv_head(shares: Sequence[float], n_head_kv: int, group: int) -> list[Sequence[float]]:
    """Divide the ranks, in order, over the KV heads: 1 to `group` of them each, as evenly as can be."""
    total, taken, start = sum(shares), 0.0, 0
    members: list[Sequence[float]] = []
    for kv_head in range(n_head_kv):
        after = n_head_kv - kv_head - 1
        fewest = max(1, len(shares) - start - after * group)
        most = min(group, len(shares) - start - after)
        goal = total * (kv_head + 1) / n_head_kv
        n = min(
            range(fewest, most + 1),
            key=lambda n: abs(taken + sum(shares[start : start + n]) - goal),
        )
        members.append(shares[start : start + n])
        taken += sum(members[-1])
        start += n
    return members


def _reencode(tensors: Iterable[Tensor], spans: Sequence[Span]) -> dict[str, GgmlType]:
    """Return the tensors whose blocks a border would break, with a type whose blocks it does not."""
    borders = [span.start for span in spans]

    def fits(type_: GgmlType) -> bool:
        return all(border % type_.block_size == 0 for border in borders)

    types: dict[str, GgmlType] = {}
    for tensor in tensors:
        if not fits(tensor.type):
            smaller = type_named(_FALLBACK.get(tensor.type.name, _FALLBACK_OF_SMALL))
            types[tensor.name] = smaller if fits(smaller) else type_named(_LAST_RESORT)
    return types
