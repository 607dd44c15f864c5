"""Cut a model: write one smaller GGUF for every rank, streaming.

Knows what a shard's header says and where its bytes come from. Memory stays at a few chunks,
whatever the model's size; the source is read once for all ranks.
Refuses to know which cut is wise: that is a `CutPlan`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dure.errors import DureError, ModelError, ResourceError
from dure.model.alike import alike_tensors, is_in_layer
from dure.model.architectures import Along, Rule
from dure.model.cut import COUNTED, CutPlan, Span
from dure.model.ggml import GgmlType, dequantize, quantize, type_named
from dure.model.gguf import (
    GgufFile,
    GgufWriter,
    Sink,
    Tensor,
    TensorSpec,
    Value,
    ValueKind,
    open_gguf,
    value_of,
)
from dure.sizes import compared
from dure.whole_file import write_whole

__all__ = [
    "FORMAT",
    "Shard",
    "TensorPiece",
    "cut_model",
    "delete_shard",
    "is_finished",
    "is_whole",
    "plan_facts",
    "plan_shards",
    "shard_sizes",
    "shards_cut_from",
    "sized_shards",
    "stem_of",
    "stream_shards",
]

FORMAT = 1  # part of a shard's name: raise it when the same plan would be written otherwise
CHUNK_BYTES = 4 << 20
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TensorPiece:
    """One tensor of a shard: `spec` is what is written, made from `source` by `rule` and `span`.

    `zero` writes zeros of the shape; `factor` multiplies a float32 tensor.
    """

    source: Tensor
    spec: TensorSpec
    rule: Rule
    span: Span | None
    zero: bool = False
    factor: float = 1.0


@dataclass(frozen=True)
class ShardSize:
    """How large one rank's part of a model is. ends: what it holds outside of layers."""

    rank: int
    weights_bytes: int
    ends: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Shard:
    """One rank's part of a model: where it lies or will lie, and how large its weights are."""

    rank: int
    path: Path
    weights_bytes: int
    _metadata: Mapping[str, Value]
    _pieces: tuple[TensorPiece, ...]

    @property
    def name(self) -> str:
        """Return its name, wherever it lies: the hash of its content."""
        return self.path.stem

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """What it holds."""
        return tuple(piece.spec for piece in self._pieces)

    @property
    def size(self) -> ShardSize:
        """How large it is."""
        ends = tuple(piece.spec for piece in self._pieces if not is_in_layer(piece.source))
        return ShardSize(self.rank, self.weights_bytes, ends)

    @property
    def manifest(self) -> Path:
        """Return the file beside a finished shard that says its size and SHA-256."""
        return self.path.with_suffix(".json")


def plan_shards(model: GgufFile, plan: CutPlan, directory: Path) -> list[Shard]:
    """Plan every rank's shard of `model`, as it would be written into `directory`. Writes nothing."""
    return [_shard(model, plan, directory, rank) for rank in range(len(plan.ranks))]


def sized_shards(model: GgufFile, plan: CutPlan) -> list[Shard]:
    """Plan what every rank's shard holds, without names and metadata, for which tensors would be read."""
    return [_sized(model, plan, rank) for rank in range(len(plan.ranks))]


def shard_sizes(model: GgufFile, plan: CutPlan) -> list[ShardSize]:
    """Return how large every rank's shard would be; quicker than to plan them."""
    return [_size(model, plan, rank) for rank in range(len(plan.ranks))]


def _size(model: GgufFile, plan: CutPlan, rank: int) -> ShardSize:
    total, ends = 0, list[TensorSpec]()
    for tensor, n in alike_tensors(model):
        if (piece := _piece(model, plan, tensor, rank)) is not None:
            total += n * piece.spec.size_bytes
            if not is_in_layer(tensor):
                ends.append(piece.spec)
    return ShardSize(rank, total, tuple(ends))


def _shard(model: GgufFile, plan: CutPlan, directory: Path, rank: int) -> Shard:
    return replace(
        _sized(model, plan, rank),
        path=directory / f"{_shard_name(model, plan, rank)}.gguf",
        _metadata=_metadata(model, plan, rank),
    )


def _sized(model: GgufFile, plan: CutPlan, rank: int) -> Shard:
    pieces = tuple(_pieces(model, plan, rank))
    return Shard(rank, Path(), sum(piece.spec.size_bytes for piece in pieces), {}, pieces)


def _shard_name(model: GgufFile, plan: CutPlan, rank: int) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([FORMAT, model.fingerprint, plan_facts(plan), rank]).encode())
    return f"{stem_of(model.paths[0])}-rank{rank}of{len(plan.ranks)}-{digest.hexdigest()[:16]}"


def stem_of(model: Path) -> str:
    """Return what the names of a model's shards begin with: letters and signs that URLs and nodes take."""
    plain = re.sub(r"[^A-Za-z0-9._-]|\.(?=\.)", "-", model.name.removesuffix(".gguf"))
    return plain.lstrip("._-")[:80] or "model"


def plan_facts(plan: CutPlan) -> dict[str, Any]:
    """Return the plan as plain data: what a shard records of it, and what its name is the hash of."""
    return {
        "ranks": [[[cut[along].start, cut[along].stop] for along in COUNTED] for cut in plan.ranks],
        "reencoded": {name: type_.name for name, type_ in plan.reencoded.items()},
    }


def _metadata(model: GgufFile, plan: CutPlan, rank: int) -> dict[str, Value]:
    """Make a shard's header: the source's, without its tokenizer, with this rank's sizes."""
    source, shape, cut = plan.architecture.name, plan.shape, plan.ranks[rank]
    target = plan.architecture.shard_name or source
    kept = {
        key.replace(f"{source}.", f"{target}.", 1) if key.startswith(f"{source}.") else key: value
        for key, value in model.metadata.items()
        if not key.startswith(("tokenizer.", "split.")) and key != "general.alignment"
    }
    numbers = {
        "attention.head_count": len(cut[Along.HEADS]),
        "attention.head_count_kv": len(cut[Along.KV_HEADS]),
        "attention.key_length": shape.key_length,
        "attention.value_length": shape.value_length,
        "rope.dimension_count": model.int(f"{source}.rope.dimension_count", shape.key_length),
        plan.architecture.ffn_length_key: len(cut[Along.FFN]),
        "vocab_size": len(cut[Along.VOCABULARY]),
    }
    texts = {
        "general.architecture": target,
        "tokenizer.ggml.model": "no_vocab",
        "dure.cut.source": model.fingerprint,
        "dure.cut.plan": json.dumps(plan_facts(plan)),
    }
    return {
        **kept,
        **{f"{target}.{k}": value_of(ValueKind.UINT32, n) for k, n in numbers.items()},
        **{k: value_of(ValueKind.STRING, text) for k, text in texts.items()},
        "dure.cut.rank": value_of(ValueKind.UINT32, rank),
    }


def _pieces(model: GgufFile, plan: CutPlan, rank: int) -> Iterator[TensorPiece]:
    for tensor in model.tensors.values():
        piece = _piece(model, plan, tensor, rank)
        if piece is not None:
            yield piece


def _piece(model: GgufFile, plan: CutPlan, tensor: Tensor, rank: int) -> TensorPiece | None:
    rule = plan.architecture.rule(tensor.name)
    name, type_, zero, factor = tensor.name, plan.type_of(tensor), False, 1.0
    if "output.weight" in model.tensors:
        if name == "token_embd.weight":
            if plan.architecture.ties_output:
                return None  # rank 0 reads embeddings from the source, the other ranks never do
            zero, type_ = True, _filler_type(tensor)
        elif name == "output.weight" and plan.architecture.ties_output:
            name = "token_embd.weight"
    if rule.along is Along.FIRST_RANK:
        zero = rank > 0
    if name.endswith("attn_q_norm.weight"):
        factor = plan.architecture.query_correction(plan.shape, len(plan.ranks[rank][Along.HEADS]))
    spec = TensorSpec(name, plan.shape_of(tensor, rank), type_)
    return TensorPiece(tensor, spec, rule, plan.span(rule, rank), zero, factor)


def _filler_type(tensor: Tensor) -> GgmlType:
    """Return a small type for a tensor that llama.cpp asks for and no rank reads."""
    return type_named("Q4_0" if tensor.shape[0] % 32 == 0 else "F16")


# ---------------------------------------------------------------- writing


def is_finished(shard: Shard, *, verify: bool = False) -> bool:
    """Check that a shard lies there whole; `verify` reads it all and compares its SHA-256."""
    return is_whole(shard.path, verify=verify)


def is_whole(path: Path, *, verify: bool = False) -> bool:
    """Check whatever shard lies at a path, as `is_finished` does."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text())
        if path.stat().st_size != manifest["size_bytes"]:
            return False
        return not verify or _sha256(path) == manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def shards_cut_from(model: Path, directory: Path) -> list[Path]:
    """Return the shards in a directory whose headers say they were cut from this model."""
    begins = f"{stem_of(model)}-rank"
    near = [p for p in directory.glob("*-rank*of*.gguf") if p.name.startswith(begins)]
    try:
        with open_gguf(model) as gguf:
            source = gguf.fingerprint if near else ""
    except ModelError:
        return []
    return [path for path in near if _source_of(path) == source]


def _source_of(shard: Path) -> str | None:
    """Return the fingerprint of the model that a shard was cut from; None if it cannot be read."""
    try:
        with open_gguf(shard) as gguf:
            return gguf.str("dure.cut.source", "")
    except DureError:
        return None


def delete_shard(path: Path) -> None:
    """Delete a shard's file and its manifest, if they are there. Raises OSError."""
    path.with_suffix(".json").unlink(missing_ok=True)  # first: what has none is cut again
    path.unlink(missing_ok=True)


def cut_model(
    model: GgufFile,
    shards: Sequence[Shard],
    *,
    verify: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Shard]:
    """Write the shards that are not finished yet; return those that were written.

    `progress` gets the bytes of the source that were read, chunk by chunk; their sum over a
    whole cut is `model.size_bytes` less the header. A second process waits for the first.
    Raises ResourceError if the disk is too small, ModelError if the source ends early.
    """
    if not shards:
        return []
    directory = shards[0].path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise ResourceError(
            f"cannot write shards to {directory}: {error.strerror}",
            "name another directory (--out of `dure cut`, or DURE_CACHE)",
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [shard for shard in shards if not is_finished(shard, verify=verify)]
        if missing:
            _check_space(directory, missing)
            _write(model, missing, progress)
        return missing


def _check_space(directory: Path, shards: Sequence[Shard]) -> None:
    needed = sum(shard.weights_bytes for shard in shards)
    free = shutil.disk_usage(directory).free
    if needed > free:
        has, need = compared(free, needed)
        raise ResourceError(
            f"{directory} has {has} free, but the shards need {need}",
            "make room, or name another directory",
        )


def stream_shards(
    model: GgufFile,
    targets: Sequence[tuple[Shard, Sink]],
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Cut a model into sinks, as on other machines, instead of files; reads the source once for all.

    Raises what the sinks raise, ModelError if the source ends early.
    """
    _write_into(model, [shard for shard, _ in targets], [sink for _, sink in targets], progress)


def _write(model: GgufFile, shards: Sequence[Shard], progress: Callable[[int], None]) -> None:
    writers = _write_into(model, shards, [shard.path for shard in shards], progress)
    for shard, writer in zip(shards, writers, strict=True):
        _write_manifest(shard, writer.sha256)


def _write_into(
    model: GgufFile,
    shards: Sequence[Shard],
    targets: Sequence[Path | Sink],
    progress: Callable[[int], None],
) -> list[GgufWriter]:
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                GgufWriter(target, shard._metadata, [piece.spec for piece in shard._pieces])
            )
            for shard, target in zip(shards, targets, strict=True)
        ]
        pieces = [{piece.source.name: piece for piece in shard._pieces} for shard in shards]
        for tensor in model.tensors.values():
            parts = [
                (writer, table[tensor.name])
                for writer, table in zip(writers, pieces, strict=True)
                if tensor.name in table
            ]
            _write_tensor(model, tensor, parts, progress)
    return writers


def _write_tensor(
    model: GgufFile,
    tensor: Tensor,
    targets: Sequence[tuple[GgufWriter, TensorPiece]],
    progress: Callable[[int], None],
) -> None:
    """Stream one tensor into every shard that has a part of it, a few rows at a time."""
    if not targets:
        progress(tensor.size_bytes)
        return
    n_rows = tensor.shape[1] if len(tensor.shape) > 1 else 1
    step = max(1, CHUNK_BYTES // tensor.row_bytes)
    for plane in range(tensor.n_rows // n_rows):
        for first in range(0, n_rows, step):
            rows = Span(first, min(first + step, n_rows))
            size = len(rows) * tensor.row_bytes
            data = model.read(tensor, (plane * n_rows + first) * tensor.row_bytes, size)
            block = np.frombuffer(data, np.uint8).reshape(len(rows), tensor.row_bytes)
            for writer, piece in targets:
                part = _part(block, rows, piece)
                if part.size:
                    writer.write(np.ascontiguousarray(part).data)
            progress(size)


def _part(block: Bytes, rows: Span, piece: TensorPiece) -> Bytes:
    """Return a piece's part of some rows of its source. block: uint8 [len(rows), row_bytes]."""
    source, target, columns = piece.source, piece.spec.type, piece.span
    if piece.rule.axis == 1 and piece.span is not None:
        lo = max(rows.start, piece.span.start) - rows.start
        hi = min(rows.stop, piece.span.stop) - rows.start
        block, columns = block[lo : max(lo, hi)], None
    if piece.zero:
        return np.zeros((block.shape[0], target.row_bytes(piece.spec.shape[0])), np.uint8)
    if target == source.type and piece.factor == 1.0:
        if columns is None:
            return block
        start = source.type.row_bytes(columns.start)
        return block[:, start : source.type.row_bytes(columns.stop)]
    return _reencode(block, piece, columns)


def _reencode(block: Bytes, piece: TensorPiece, columns: Span | None) -> Bytes:
    n_columns = piece.source.shape[0]
    floats = dequantize(block, piece.source.type, block.shape[0] * n_columns)
    floats = floats.reshape(block.shape[0], n_columns) * np.float32(piece.factor)
    if columns is not None:
        floats = floats[:, columns.start : columns.stop]
    return quantize(np.ascontiguousarray(floats), piece.spec.type)


def _write_manifest(shard: Shard, sha256: str) -> None:
    facts = {"size_bytes": shard.path.stat().st_size, "sha256": sha256}
    try:
        write_whole(shard.manifest, json.dumps(facts).encode())
    except OSError as error:
        raise ResourceError(f"cannot write {shard.manifest}: {error.strerror}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
