"""Which bytes of a `.m` file are which tensor, and how they are read.

Knows the order of the matrices. The blocks of q40 and q80 are llama.cpp's Q4_0 and Q8_0 to the bit, and
queries and keys of Llama lie in llama.cpp's order already, so nothing is computed but two tables.
Source: Distributed Llama `loadLlmNetWeight` in `src/llm.cpp`, `converter/writer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dure.convert.distributed_llama.headers import ModelHeader, RopeScaling
from dure.convert.model import Bytes, TensorSource
from dure.errors import ModelError
from dure.model.ggml import type_named
from dure.model.gguf import TensorSpec

_CHUNK_BYTES = 4 << 20
_F32 = "F32"


@dataclass(frozen=True)
class _Matrix:
    """One matrix of the file: llama.cpp's name of the tensor that it is, or is part of, and its rows."""

    name: str
    columns: int
    rows: int
    type: str

    @property
    def spec(self) -> TensorSpec:
        shape = (self.columns, self.rows) if self.rows else (self.columns,)
        return TensorSpec(self.name, shape, type_named(self.type))


def tensors_of(path: Path, header: ModelHeader) -> list[TensorSource]:
    """Return the tensors of a model. Raises ModelError if the file is not as long as they are."""
    layer = [*_attention(header), *_feed_forward(header), *_norms(header)]
    first = _Matrix("token_embd.weight", header.embedding, header.vocabulary, _F32)
    last = [
        _Matrix("output_norm.weight", header.embedding, 0, _F32),
        _Matrix("output.weight", header.embedding, header.vocabulary, header.weight_type),
    ]
    _check(path, header, first, layer, last)
    embedding = _embedding(path, header.header_bytes, first.spec)
    tensors, place = [embedding], header.header_bytes + first.spec.size_bytes
    for index in range(header.layers):
        tensors += _placed(path, place, layer, header.experts, f"blk.{index}.")
        place += _bytes_of(layer)
    tensors += _placed(path, place, last, 0)
    if header.rope_scaling:
        tensors.append(_rope_factors(header.rope_scaling, header.head_size, header.rope_base))
    return tensors


def _attention(h: ModelHeader) -> list[_Matrix]:
    queries, keys = h.heads * h.head_size, h.kv_heads * h.head_size
    return [
        _Matrix("attn_q.weight", h.embedding, queries, h.weight_type),
        _Matrix("attn_k.weight", h.embedding, keys, h.weight_type),
        _Matrix("attn_v.weight", h.embedding, keys, h.weight_type),
        _Matrix("attn_output.weight", queries, h.embedding, h.weight_type),
    ]


def _feed_forward(h: ModelHeader) -> list[_Matrix]:
    width, suffix = (
        (h.expert_feed_forward, "_exps.weight") if h.experts else (h.feed_forward, ".weight")
    )
    expert = [
        _Matrix(f"ffn_gate{suffix}", h.embedding, width, h.weight_type),
        _Matrix(f"ffn_down{suffix}", width, h.embedding, h.weight_type),
        _Matrix(f"ffn_up{suffix}", h.embedding, width, h.weight_type),
    ]
    if not h.experts:
        return expert
    return [_Matrix("ffn_gate_inp.weight", h.embedding, h.experts, _F32), *expert * h.experts]


def _norms(h: ModelHeader) -> list[_Matrix]:
    per_head = ("attn_q_norm.weight", "attn_k_norm.weight") if h.head_norms else ()
    return [
        *(_Matrix(name, h.head_size, 0, _F32) for name in per_head),
        _Matrix("attn_norm.weight", h.embedding, 0, _F32),
        _Matrix("ffn_norm.weight", h.embedding, 0, _F32),
    ]


def _bytes_of(matrices: Sequence[_Matrix]) -> int:
    return sum(matrix.spec.size_bytes for matrix in matrices)


def _check(
    path: Path,
    header: ModelHeader,
    first: _Matrix,
    layer: Sequence[_Matrix],
    last: Sequence[_Matrix],
) -> None:
    for matrix in {first, *layer, *last}:
        matrix.spec.check()
    expected = header.header_bytes + _bytes_of([first, *last]) + header.layers * _bytes_of(layer)
    found = path.stat().st_size
    if found < expected:
        raise ModelError(
            f"{path.name}: its header describes {expected} bytes but the file ends at {found}",
            "it is cut short, get it again",
        )
    if found > expected:
        raise ModelError(
            f"{path.name}: its header describes {expected} bytes but the file has {found}",
            "get it again if it is damaged, or use a newer dure if its format is newer",
        )


def _placed(
    path: Path, place: int, matrices: Sequence[_Matrix], n_experts: int, prefix: str = ""
) -> list[TensorSource]:
    """Return the tensors of matrices that lie one after another; those of one name are a stack."""
    places: dict[_Matrix, list[int]] = {}
    for matrix in matrices:
        places.setdefault(matrix, []).append(place)
        place += matrix.spec.size_bytes
    tensors = []
    for matrix, starts in places.items():
        stacked = (n_experts,) if matrix.name.endswith("_exps.weight") else ()
        spec = TensorSpec(prefix + matrix.name, (*matrix.spec.shape, *stacked), matrix.spec.type)
        tensors.append(TensorSource(spec, partial(_pieces, path, starts, matrix.spec.size_bytes)))
    return tensors


def _pieces(path: Path, starts: Sequence[int], n_bytes: int) -> Iterator[Bytes]:
    with path.open("rb", buffering=0) as file:
        for start in starts:
            file.seek(start)
            left = n_bytes
            while left:
                data = file.read(min(left, _CHUNK_BYTES))
                if not data:
                    raise ModelError(
                        f"{path.name} ended while it was read", "leave it alone meanwhile"
                    )
                left -= len(data)
                yield np.frombuffer(data, np.uint8)


def _embedding(path: Path, start: int, spec: TensorSpec) -> TensorSource:
    """Return the embedding, in half of its bytes if none of its bits is lost.

    The converter widens every embedding to float32, but most models have theirs in bfloat16. It is a
    table whose rows are looked up, so nothing is computed otherwise.
    """
    whole = partial(_pieces, path, [start], spec.size_bytes)
    if any(chunk.view("<u2")[::2].any() for chunk in _even(whole())):
        return TensorSource(spec, whole)
    narrow = TensorSpec(spec.name, spec.shape, type_named("BF16"))
    return TensorSource(narrow, lambda: (_upper_halves(chunk) for chunk in _even(whole())))


def _even(chunks: Iterator[Bytes]) -> Iterator[Bytes]:
    """Return the same bytes, in chunks of whole float32 numbers."""
    rest = np.empty(0, np.uint8)
    for chunk in chunks:
        joined = np.concatenate([rest, chunk]) if len(rest) else chunk
        end = len(joined) // 4 * 4
        yield joined[:end]
        rest = joined[end:]


def _upper_halves(chunk: Bytes) -> Bytes:
    return np.ascontiguousarray(chunk.view("<u2")[1::2]).view(np.uint8)


def _rope_factors(scaling: RopeScaling, head_size: int, base: float) -> TensorSource:
    """Return what Llama 3.1 divides each frequency by, which llama.cpp keeps as a tensor."""
    factors = rope_factors(scaling, head_size, base)
    spec = TensorSpec("rope_freqs.weight", (head_size // 2,), type_named(_F32))
    return TensorSource(spec, lambda: iter([factors.view(np.uint8)]))


def rope_factors(scaling: RopeScaling, head_size: int, base: float) -> npt.NDArray[np.float32]:
    """Return one factor for each pair of a head: float32 [head_size / 2].

    Source: Distributed Llama `scaleFrequencyLlama3`, llama.cpp `generate_extra_tensors`.
    """
    low, high, context = scaling.low_factor, scaling.high_factor, scaling.original_context
    factors = []
    for pair in range(head_size // 2):
        wavelength = 2 * math.pi * base ** (2 * pair / head_size)
        smooth = (context / wavelength - low) / (high - low)
        smooth = min(1.0, max(0.0, smooth))
        factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, "<f4")
