"""The header of a published model in given types, made from its sizes: planning needs no download.

Knows which tensors a model of these sizes has, and which types a quantization gives them. Refuses to know
weights: they cannot be read.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from dure.errors import ModelError, UsageError
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf.header import Part
from dure.model.gguf.reader import GgufFile
from dure.model.gguf.values import U32, U64, Tensor, Value, ValueKind, default_value

__all__ = [
    "QUANTIZATIONS",
    "Outline",
    "header_of",
    "near_outlines",
    "outline_named",
    "outlined_model",
    "outlines",
    "requantized",
]

_BPW = re.compile(r"(\d+(?:\.\d+)?)bpw", re.IGNORECASE)
_LADDER = (
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_0",
)  # what a mean number of bits is mixed from
# What llama.cpp's quantizer takes if a row is no multiple of 256.
_NARROW = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_PURE = ("F32", "F16", "BF16", "Q8_0", "MXFP4")
# By name: what most weights have, what the finer ones have, and the output.
_MIXTURES = {
    "Q2_K": ("Q2_K", "Q3_K", "Q6_K"),
    "Q3_K_S": ("Q3_K", "Q3_K", "Q6_K"),
    "Q3_K_M": ("Q3_K", "Q4_K", "Q6_K"),
    "Q4_0": ("Q4_0", "Q4_0", "Q6_K"),
    "Q4_K_S": ("Q4_K", "Q5_K", "Q6_K"),
    "Q4_K_M": ("Q4_K", "Q6_K", "Q6_K"),
    "Q5_K_M": ("Q5_K", "Q6_K", "Q6_K"),
    "Q6_K": ("Q6_K", "Q6_K", "Q6_K"),
}
QUANTIZATIONS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
"""What a plan tries, the smallest first."""

_DLLAMA = "Q40"  # Distributed Llama's: every matrix in Q4_0, and a table in float32

TypeOf = Callable[[str, Sequence[int]], str]
"""Given a tensor's name and shape, the name of its type."""


class Outline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model's sizes; see `catalogue/models.toml`. feed_forward: of one expert if there are experts.

    native: the only quantization that makes sense, if the model was trained in it.
    """

    architecture: str
    layers: int
    embedding: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    context: int
    head: int = 0
    experts: int = 0
    experts_used: int = 0
    window: int = 0
    tied: bool = False
    native: str = ""

    @property
    def head_length(self) -> int:
        """Return the length of a head."""
        return self.head or self.embedding // self.heads


@cache
def outlines() -> Mapping[str, Outline]:
    """Return the sizes of published models, by name."""
    text = (resources.files("dure.plan.catalogue") / "models.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Outline])


def outline_named(name: str) -> Outline | None:
    """Return the sizes of a published model by its short name, or None."""
    return outlines().get(name.lower())


def near_outlines(name: str) -> list[str]:
    """Return the names of published models that may have been meant; all of them if none is near."""
    return difflib.get_close_matches(name.lower(), outlines(), n=3) or list(outlines())


class _NoFile:
    """Stands for the weights, which nobody has. Raises ModelError if they are read."""

    size = 0

    def read_into(self, _target: memoryview, _offset: int) -> int:
        """Raise ModelError."""
        raise ModelError("these are a model's sizes alone", "pull the model to read its weights")

    def close(self) -> None:
        """Do nothing."""


def outlined_model(name: str, outline: Outline, quantization: str) -> GgufFile:
    """Return a header with these sizes, its tensors in the types of a quantization.

    quantization: one of llama.cpp's names, or a mean number of bits as in 2.7bpw. Raises UsageError if it
    is neither.
    """
    metadata = {key: default_value(value) for key, value in _metadata(outline).items()}
    # Only their number counts.
    words = U32.pack(ValueKind.STRING) + U64.pack(outline.vocabulary)
    metadata["tokenizer.ggml.tokens"] = Value(ValueKind.ARRAY, words)
    return _header(name.replace(":", "-"), metadata, dict(_shapes(outline)), quantization)


def requantized(model: GgufFile, quantization: str) -> GgufFile:
    """Return a model's header with its tensors in the types of a quantization; see `outlined_model`."""
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    return _header(model.paths[0].stem, model.metadata, shapes, quantization)


def _header(
    name: str,
    metadata: Mapping[str, Value],
    shapes: Mapping[str, tuple[int, ...]],
    quantization: str,
) -> GgufFile:
    types = _types(quantization, shapes)
    return header_of(
        Path(f"{name}-{quantization}.gguf"),
        metadata,
        shapes,
        lambda tensor, shape: _type(types(tensor, shape), shape),
    )


def header_of(
    path: Path,
    metadata: Mapping[str, Value],
    shapes: Mapping[str, tuple[int, ...]],
    type_of: Callable[[str, Sequence[int]], GgmlType],
) -> GgufFile:
    """Return a header of tensors with these shapes, of which no file need be there."""
    tensors, offset = list[Tensor](), 0
    for tensor, shape in shapes.items():
        tensors.append(Tensor(tensor, shape, type_of(tensor, shape), path, offset))
        offset += tensors[-1].size_bytes
    part = Part(path, _NoFile(), offset, memoryview(b""), 3, 32, dict(metadata), tensors)
    return GgufFile([part])


def _metadata(outline: Outline) -> dict[str, object]:
    prefix = outline.architecture
    own: dict[str, object] = {
        "block_count": outline.layers,
        "context_length": outline.context,
        "embedding_length": outline.embedding,
        "feed_forward_length": outline.feed_forward,
        "attention.head_count": outline.heads,
        "attention.head_count_kv": outline.kv_heads,
        "attention.key_length": outline.head_length,
        "attention.value_length": outline.head_length,
    }
    if outline.experts:
        own["expert_count"] = outline.experts
        own["expert_used_count"] = outline.experts_used
        own["expert_feed_forward_length"] = outline.feed_forward
    if outline.window:
        own["attention.sliding_window"] = outline.window
    return {
        "general.architecture": prefix,
        **{f"{prefix}.{key}": value for key, value in own.items()},
    }


def _shapes(outline: Outline) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every tensor's name and shape, in ggml's order."""
    n_embd, n_vocab = outline.embedding, outline.vocabulary
    yield "token_embd.weight", (n_embd, n_vocab)
    if not outline.tied:
        yield "output.weight", (n_embd, n_vocab)
    yield "output_norm.weight", (n_embd,)
    for layer in range(outline.layers):
        for name, shape in _layer(outline):
            yield f"blk.{layer}.{name}.weight", shape


def _layer(outline: Outline) -> Iterator[tuple[str, tuple[int, ...]]]:
    n_embd, n_ff, n_expert = outline.embedding, outline.feed_forward, outline.experts
    query, key = outline.heads * outline.head_length, outline.kv_heads * outline.head_length
    yield "attn_norm", (n_embd,)
    yield "attn_q", (n_embd, query)
    yield "attn_k", (n_embd, key)
    yield "attn_v", (n_embd, key)
    yield "attn_output", (query, n_embd)
    yield "ffn_norm", (n_embd,)
    if not n_expert:
        yield "ffn_gate", (n_embd, n_ff)
        yield "ffn_up", (n_embd, n_ff)
        yield "ffn_down", (n_ff, n_embd)
        return
    yield "ffn_gate_inp", (n_embd, n_expert)
    yield "ffn_gate_exps", (n_embd, n_ff, n_expert)
    yield "ffn_up_exps", (n_embd, n_ff, n_expert)
    yield "ffn_down_exps", (n_ff, n_embd, n_expert)


# ---------------------------------------------------------------- types


def _type(name: str, shape: Sequence[int]) -> GgmlType:
    type_ = type_named(name)
    if shape[0] % type_.block_size and name in _NARROW:
        type_ = type_named(_NARROW[name])
    return type_ if shape[0] % type_.block_size == 0 else type_named("F16")


def _types(quantization: str, shapes: Mapping[str, Sequence[int]]) -> TypeOf:
    """Return what gives every tensor its type."""
    name = quantization.upper()
    if match := _BPW.fullmatch(quantization):
        return _small_tensors_float(_of_bits(float(match[1]), shapes))
    if name == _DLLAMA:
        table = "token_embd.weight" if "output.weight" in shapes else ""
        return _small_tensors_float(lambda one, _: "F32" if one == table else "Q4_0")
    if name == "MXFP4":
        return _small_tensors_float(lambda one, _: "MXFP4" if "_exps" in one else "Q8_0")
    if name in _PURE:
        return _small_tensors_float(lambda _one, _shape: name)
    if name in _MIXTURES:
        return _small_tensors_float(_mixture(name, shapes))
    known = ", ".join([*_MIXTURES, *_PURE])
    raise UsageError(
        f"{quantization}: there is no such quantization", f"give one of {known}, or 2.7bpw"
    )


def _small_tensors_float(inner: TypeOf) -> TypeOf:
    """Keep norms and routers in float32, as every quantizer does."""

    def type_of(name: str, shape: Sequence[int]) -> str:
        return "F32" if len(shape) == 1 or "gate_inp" in name else inner(name, shape)

    return type_of


def _mixture(name: str, shapes: Mapping[str, Sequence[int]]) -> TypeOf:
    """Return llama.cpp's mixture: the output, and half of two kinds of matrices, in finer types."""
    most, finer, output = _MIXTURES[name]
    is_tied = "output.weight" not in shapes
    n = 1 + max((int(one.split(".")[1]) for one in shapes if one.startswith("blk.")), default=0)

    def is_finer(layer: int) -> bool:
        return layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2

    def type_of(tensor: str, _shape: Sequence[int]) -> str:
        if tensor == "output.weight" or (is_tied and tensor == "token_embd.weight"):
            return output
        if "attn_v" in tensor or "ffn_down" in tensor:
            return finer if is_finer(int(tensor.split(".")[1])) else most
        return most

    return type_of


def _of_bits(bits: float, shapes: Mapping[str, Sequence[int]]) -> TypeOf:
    """Mix the two types between which a mean number of bits lies, the larger one first."""
    sizes = [8 * type_named(one).type_size / type_named(one).block_size for one in _LADDER]
    if not sizes[0] <= bits <= sizes[-1]:
        raise UsageError(f"{bits:g}bpw", f"give {sizes[0]:.4g}bpw to {sizes[-1]:g}bpw")
    above = next(i for i, size in enumerate(sizes) if size >= bits)
    if above == 0:
        return lambda _name, _shape: _LADDER[0]
    low, high = sizes[above - 1], sizes[above]
    layers = [one for one in shapes if one.startswith("blk.")]
    n_fine = round(len(layers) * (bits - low) / (high - low))
    fine = {
        one
        for i, one in enumerate(layers)
        if i * n_fine // len(layers) != (i + 1) * n_fine // len(layers)
    }
    return lambda name, _shape: _LADDER[above] if name in fine else _LADDER[above - 1]
