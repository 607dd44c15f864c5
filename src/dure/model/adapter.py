"""A LoRA adapter in GGUF: what it changes, which model it fits, and how it is cut with that model.

A weight w becomes w + scale * b @ a. If the rows of w are cut, so are those of b; if its columns are, so
are those of a, and each rank's product is a part of the same sum as before.
Knows llama.cpp's form. Refuses to know who uses an adapter, and when.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dure.errors import CutError, ModelError
from dure.model.architectures import Along, Rule
from dure.model.cut import CutPlan, Span
from dure.model.ggml import WRITABLE_TYPES, GgmlType, type_named
from dure.model.gguf import GgufFile, Tensor, TensorSpec, Value, ValueKind, open_gguf, value_of
from dure.model.gguf.values import one_line
from dure.model.shard import FORMAT, Shard, TensorPiece, plan_facts, stem_of

__all__ = ["AdapterPair", "check_adapter", "open_adapter", "pairs_of", "plan_adapter"]

_A, _B = ".lora_a", ".lora_b"
_TABLE, _OUTPUT = "token_embd.weight", "output.weight"
_INVOCATION = "adapter.alora.invocation_tokens"
_WHOLE = Rule(Along.NOTHING)
_ANOTHER = "it was made for another model: name that one"


@dataclass(frozen=True)
class AdapterPair:
    """What changes one weight. a: [columns, rank], b: [rank, rows], in ggml's order; experts come last.

    Of the table of embeddings, a is [rank, tokens] and b [rank, columns].
    """

    weight: str
    a: Tensor
    b: Tensor


def open_adapter(path: Path) -> GgufFile:
    """Open a LoRA adapter. Raises ModelError if the file is none."""
    adapter = open_gguf(path)
    try:
        _check_kind(adapter)
        for _ in pairs_of(adapter):
            pass
    except BaseException:
        adapter.close()
        raise
    return adapter


def _check_kind(adapter: GgufFile) -> None:
    name, kind = adapter.paths[0].name, adapter.str("general.type", "model")
    if kind != "adapter":
        raise ModelError(
            f"{name} is no adapter: its general.type is {one_line(kind)}",
            "name a LoRA adapter in GGUF",
        )
    if (of := adapter.str("adapter.type", "")) != "lora":
        raise ModelError(
            f"{name} is an adapter of type {one_line(of)!r}", "name a LoRA adapter in GGUF"
        )
    if _INVOCATION in adapter.metadata:
        raise ModelError(
            f"{name} is an activated LoRA, which begins in the middle of a prompt",
            "name a LoRA adapter that holds for all of it",
        )


def pairs_of(adapter: GgufFile) -> Iterator[AdapterPair]:
    """Yield what an adapter changes, in the order of its file. Raises ModelError."""
    name = adapter.paths[0].name
    for tensor in adapter.tensors.values():
        weight, ending = tensor.name[: -len(_A)], tensor.name[-len(_A) :]
        other = adapter.tensors.get(weight + (_B if ending == _A else _A))
        if ending not in {_A, _B} or other is None:
            raise ModelError(
                f"{name}: tensor {one_line(tensor.name)} is no half of a LoRA pair",
                "name an adapter of such pairs alone",
            )
        if tensor.type.name not in WRITABLE_TYPES:
            raise ModelError(
                f"{name}: tensor {one_line(tensor.name)} is of type {tensor.type.name}",
                "make the adapter again, in F16 or F32",
            )
        if ending == _A:
            yield AdapterPair(weight, tensor, other)


def check_adapter(adapter: GgufFile, model: GgufFile) -> None:
    """Check that an adapter was made for a model of these sizes. Raises ModelError."""
    name, of = adapter.paths[0].name, model.paths[0].name
    made_for, is_ = adapter.architecture, model.architecture
    if made_for != is_:
        raise ModelError(
            f"{name} changes a model of {one_line(made_for)}, but {of} is {is_}", _ANOTHER
        )
    for pair in pairs_of(adapter):
        base = model.tensors.get(pair.weight)
        if base is None:
            raise ModelError(f"{name} changes {one_line(pair.weight)}, which {of} lacks", _ANOTHER)
        if not pair.weight.endswith(".weight"):
            raise ModelError(
                f"{name} changes {one_line(pair.weight)}, but only products have adapters",
                "name an adapter of weights alone",
            )
        if not _fits(pair, base):
            raise ModelError(
                f"{name} changes {pair.weight} by {list(pair.a.shape)} and {list(pair.b.shape)}, but it "
                f"has shape {list(base.shape)} in {of}",
                _ANOTHER,
            )
        if pair.weight == _TABLE and _OUTPUT not in model.tensors:
            raise ModelError(
                f"{name} changes {_TABLE}, which {of} reads prompts with and writes answers with",
                "merge the adapter into the model",
            )


def _fits(pair: AdapterPair, base: Tensor) -> bool:
    a, b, (columns, *rows) = pair.a.shape, pair.b.shape, base.shape
    if pair.weight == _TABLE:
        return len(a) == len(b) == 2 and (a[0], a[1], b[1]) == (b[0], rows[0], columns)
    if not len(a) == len(b) == len(base.shape) >= 2:
        return False
    return a[0] == columns and a[1] == b[0] and b[1:] == tuple(rows) and a[2:] == b[2:]


# ---------------------------------------------------------------- cutting


def plan_adapter(adapter: GgufFile, plan: CutPlan, directory: Path) -> list[Shard]:
    """Plan every rank's part of an adapter that fits the model of a plan. Writes nothing.

    Raises CutError if the adapter changes what ranks do not have as the model has it.
    """
    for pair in pairs_of(adapter):
        is_renamed = pair.weight == _OUTPUT and plan.architecture.ties_output
        if pair.weight == _TABLE or is_renamed:
            raise CutError(
                f"{adapter.paths[0].name} changes {pair.weight}, which cannot be cut with the model",
                "run it on one rank, or merge the adapter into the model",
            )
    return [_shard(adapter, plan, directory, rank) for rank in range(len(plan.ranks))]


def _shard(adapter: GgufFile, plan: CutPlan, directory: Path, rank: int) -> Shard:
    target = plan.architecture.shard_name or plan.architecture.name
    pieces = tuple(piece for pair in pairs_of(adapter) for piece in _pieces(pair, plan, rank))
    facts = [FORMAT, adapter.fingerprint, target, plan_facts(plan), rank]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    name = f"{stem_of(adapter.paths[0])}-rank{rank}of{len(plan.ranks)}-{digest}"
    return Shard(
        rank,
        directory / f"{name}.gguf",
        sum(piece.spec.size_bytes for piece in pieces),
        _metadata(adapter, target),
        pieces,
    )


def _metadata(adapter: GgufFile, target: str) -> dict[str, Value]:
    kept = {
        key: value
        for key, value in adapter.metadata.items()
        if key.startswith(("general.", "adapter.")) and key != "general.alignment"
    }
    return {
        **kept,
        "general.architecture": value_of(ValueKind.STRING, target),
        "dure.cut.source": value_of(ValueKind.STRING, adapter.fingerprint),
    }


def _pieces(pair: AdapterPair, plan: CutPlan, rank: int) -> Iterator[TensorPiece]:
    rule = plan.architecture.rule(pair.weight)
    span = plan.span(rule, rank)
    for tensor, axis in ((pair.a, 0), (pair.b, 1)):
        if span is None or rule.axis != axis:
            yield TensorPiece(
                tensor, TensorSpec(tensor.name, tensor.shape, tensor.type), _WHOLE, None
            )
            continue
        shape = (*tensor.shape[:axis], len(span), *tensor.shape[axis + 1 :])
        type_ = tensor.type if axis else _type_of_columns(tensor.type, span)
        yield TensorPiece(tensor, TensorSpec(tensor.name, shape, type_), rule, span)


def _type_of_columns(type_: GgmlType, span: Span) -> GgmlType:
    """Return the type that some columns can be written in: their own, if no block is broken."""
    is_whole = not (span.start % type_.block_size or span.stop % type_.block_size)
    return type_ if is_whole else type_named("F16")
