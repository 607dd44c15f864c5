"""Writes small models with random weights, for tests that compare a cut model with the whole one.

Knows the tensors and metadata that llama.cpp needs for each architecture that dure cuts, how to
write them as GGUF in any type, and how to get the logits of such a file from llama.cpp.
Knows nothing about cuts, ranks or dure itself.

The weights are scaled so that a mistake shows: activations stay near one, attention spreads over the
whole prompt, norms differ from one, and biases, sinks and rope factors from zero.
"""

from __future__ import annotations

import ctypes
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as binding

from dure.engine.compute.allreduce import graph_callback
from dure.engine.compute.custom_nodes import CustomNodes
from dure.engine.compute.llama import has_amx

Floats = npt.NDArray[np.float32]
Value = int | float | str

_LOGIT_STD = 2.0  # of the logits, about as in a trained model
_POST_NORM = (
    0.5  # scale of what a half-layer adds; with 1.0, seven layers amplify a flipped rounding
)
_EXPERT_PARENT = {"qwen3moe"}  # feed_forward_length is that of all used experts together


@dataclass(frozen=True)
class Shape:
    """The sizes of a random model in elements, and which optional tensors it has."""

    arch: str  # llama.cpp's name, the value of general.architecture
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int  # of one expert, if there are experts
    n_vocab: int
    n_expert: int = 0  # 0: one dense feed-forward layer
    n_expert_used: int = 0
    n_swa: int = 0  # sliding window in tokens; 0: every layer sees the whole prompt
    n_ctx_train: int = 1024
    tied: bool = False  # no output.weight: llama.cpp uses token_embd.weight
    embd_scale: float = 1.0  # what llama.cpp multiplies embeddings of tokens with
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False  # norms after attention and after the feed-forward layer
    rope_factors: bool = False  # rope_freqs.weight
    sinks: bool = False  # attn_sinks.weight
    moe_bias: bool = False  # biases of attn_output, of the router and of the expert stacks


SHAPES: dict[str, Shape] = {
    "llama": Shape("llama", 3, 256, 8, 4, 64, 768, 1003, qkv_bias=True, rope_factors=True),
    "llama-moe": Shape("llama", 2, 256, 8, 4, 64, 768, 1000, n_expert=4, n_expert_used=2),
    "qwen2": Shape("qwen2", 2, 512, 8, 2, 64, 768, 1003, tied=True, qkv_bias=True),
    "qwen3": Shape("qwen3", 3, 256, 8, 4, 64, 768, 1003, tied=True, qk_norm=True),
    "qwen3moe": Shape(
        "qwen3moe", 2, 256, 8, 4, 64, 768, 1003, n_expert=4, n_expert_used=2, qk_norm=True
    ),
    "gemma3": Shape(  # layer 5 is global, the others slide
        "gemma3",
        *(7, 256, 8, 2, 64, 768, 1003),
        n_swa=8,
        tied=True,
        embd_scale=16.0,
        qk_norm=True,
        post_norms=True,
    ),
    "gpt-oss": Shape(  # layer 0 slides, layer 1 is global
        "gpt-oss",
        *(2, 256, 8, 4, 64, 768, 1001),
        n_expert=4,
        n_expert_used=2,
        n_swa=8,
        qkv_bias=True,
        sinks=True,
        moe_bias=True,
    ),
}
"""The models of the parity tests: their rows fit 256-blocks; n_ff is three such blocks."""


def write_random_model(
    path: Path, shape: Shape, type_name: str, seed: int = 0, *, vocab: Path | None = None
) -> None:
    """Write one GGUF with random weights.

    `type_name` is a `gguf.GGMLQuantizationType` name (F32, F16, Q8_0, Q4_0, Q4_K, Q6_K …); the
    weight matrices get it, what llama.cpp never quantizes stays F32. The weights before
    quantization depend on `seed` and the tensor's name only, so types can be compared.
    The model has no tokenizer, unless `vocab` names a GGUF with `shape.n_vocab` tokens whose
    `tokenizer.*` keys are then copied.

    Raises ValueError if a row does not fit the type's blocks, or the vocabulary the shape.
    """
    _write_file(path, shape, list(_tensors(shape)), type_name, seed=seed, vocab=vocab, split=None)


def write_split(
    path_prefix: Path,
    shape: Shape,
    type_name: str,
    n_files: int,
    seed: int = 0,
    *,
    vocab: Path | None = None,
) -> list[Path]:
    """Write the same model as `write_random_model` into `n_files` files, as llama-gguf-split does.

    The files are `PREFIX-00001-of-0000N.gguf` and so on; the first has all the metadata, the
    others the three `split.*` keys only. Returns their paths; llama.cpp is given the first.
    Source: llama.cpp `tools/gguf-split/gguf-split.cpp`. Raises as `write_random_model`.
    """
    tensors = list(_tensors(shape))
    bounds = [len(tensors) * i // n_files for i in range(n_files + 1)]
    paths = []
    for i in range(n_files):
        path = path_prefix.with_name(f"{path_prefix.name}-{i + 1:05}-of-{n_files:05}.gguf")
        part = tensors[bounds[i] : bounds[i + 1]]
        split = (i, n_files, len(tensors))
        _write_file(path, shape, part, type_name, seed=seed, vocab=vocab, split=split)
        paths.append(path)
    return paths


def write_large_model(path: Path, shape: Shape, type_name: str) -> None:
    """Write a model whose weights are zeros that take no room on the disk: one for work that takes long."""
    writer = gguf.GGUFWriter(path, shape.arch)
    _add_metadata(writer, shape, None)
    for tensor in _tensors(shape):
        kind = gguf.GGMLQuantizationType[type_name if tensor.is_matrix else "F32"]
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = int(np.prod(tensor.shape)) // block * block_bytes
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), n_bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        ends = gguf.GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment)
        padded = (
            writer.ggml_pad(info.nbytes, writer.data_alignment)
            for info in writer.tensors[0].values()
        )
        file.truncate(ends + sum(padded))


def reference_logits(path: Path, tokens: Sequence[int], n_prefill: int) -> Floats:
    """Return logits of the whole model, computed by llama.cpp in this process on one CPU thread.

    Decodes `tokens[:n_prefill]` as one batch, then every further token in a batch of its own.
    Returns float32 [len(tokens) - n_prefill + 1, n_vocab]: the row after the last prompt token,
    then one for each further token. KV cache and flash attention are llama.cpp's defaults.

    Raises ValueError for an impossible `n_prefill`, RuntimeError with llama.cpp's last messages
    if it refuses the file or the batch.
    """
    if not 1 <= n_prefill <= len(tokens):
        raise ValueError(f"n_prefill is {n_prefill}: give 1 to {len(tokens)}, the tokens there are")
    with _loaded(path, n_ctx=len(tokens), n_batch=n_prefill) as (model, context):
        n_vocab = binding.llama_vocab_n_tokens(binding.llama_model_get_vocab(model))
        rows = [_decode(context, tokens[:n_prefill], n_vocab)]
        rows += [_decode(context, [token], n_vocab) for token in tokens[n_prefill:]]
    return np.stack(rows)


# -- which tensors a model has --------------------------------------------------------------------


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]  # as numpy has it: the row's length comes last
    std: float
    mean: float = 0.0
    is_matrix: bool = False  # gets the model's type; everything else stays F32


def _matrix(name: str, *shape: int, gain: float = 1.0) -> _Tensor:
    return _Tensor(f"{name}.weight", shape, gain / shape[-1] ** 0.5, is_matrix=True)


def _norm(name: str, n: int, mean: float = 1.0) -> _Tensor:
    return _Tensor(f"{name}.weight", (n,), 0.25, mean)


def _bias(name: str, *shape: int, std: float = 0.4) -> _Tensor:
    return _Tensor(f"{name}.bias", shape, std)


def _tensors(shape: Shape) -> Iterator[_Tensor]:
    embd_gain = _LOGIT_STD if shape.tied else shape.n_embd**0.5
    yield _matrix("token_embd", shape.n_vocab, shape.n_embd, gain=embd_gain)
    if shape.rope_factors:
        yield _Tensor("rope_freqs.weight", (shape.head_dim // 2,), 0.5, 2.0)
    for i in range(shape.n_layer):
        yield from _attention(f"blk.{i}", shape)
        yield from _feed_forward(f"blk.{i}", shape)
    yield _norm("output_norm", shape.n_embd)
    if not shape.tied:
        yield _matrix("output", shape.n_vocab, shape.n_embd, gain=_LOGIT_STD)


def _attention(blk: str, shape: Shape) -> Iterator[_Tensor]:
    n_q, n_kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    yield _norm(f"{blk}.attn_norm", shape.n_embd)
    for name, n_rows, gain in (("q", n_q, 1.5), ("k", n_kv, 1.5), ("v", n_kv, 1.0)):
        yield _matrix(f"{blk}.attn_{name}", n_rows, shape.n_embd, gain=gain)
        if shape.qkv_bias:
            yield _bias(f"{blk}.attn_{name}", n_rows)
    if shape.qk_norm:
        yield _norm(f"{blk}.attn_q_norm", shape.head_dim, mean=1.5)
        yield _norm(f"{blk}.attn_k_norm", shape.head_dim, mean=1.5)
    if shape.sinks:
        yield _Tensor(f"{blk}.attn_sinks.weight", (shape.n_head,), 1.0, 1.5)
    yield _matrix(f"{blk}.attn_output", shape.n_embd, n_q, gain=1.5)
    if shape.moe_bias:
        yield _bias(f"{blk}.attn_output", shape.n_embd)
    if shape.post_norms:
        yield _norm(f"{blk}.post_attention_norm", shape.n_embd, mean=_POST_NORM)


def _feed_forward(blk: str, shape: Shape) -> Iterator[_Tensor]:
    # gpt-oss calls the norm before its experts post_attention_norm
    norm = "post_attention_norm" if shape.arch == "gpt-oss" else "ffn_norm"
    yield _norm(f"{blk}.{norm}", shape.n_embd)
    if shape.n_expert:
        yield from _experts(blk, shape)
    else:
        yield _matrix(f"{blk}.ffn_gate", shape.n_ff, shape.n_embd)
        yield _matrix(f"{blk}.ffn_up", shape.n_ff, shape.n_embd, gain=1.5)
        yield _matrix(f"{blk}.ffn_down", shape.n_embd, shape.n_ff, gain=1.5)
    if shape.post_norms:
        yield _norm(f"{blk}.post_ffw_norm", shape.n_embd, mean=_POST_NORM)


def _experts(blk: str, shape: Shape) -> Iterator[_Tensor]:
    n, n_embd, n_ff = shape.n_expert, shape.n_embd, shape.n_ff
    # a wide router: which experts are used seldom hangs on the last bits of an activation
    yield _Tensor(f"{blk}.ffn_gate_inp.weight", (n, n_embd), 2.0 / n_embd**0.5)
    yield _matrix(f"{blk}.ffn_gate_exps", n, n_ff, n_embd)
    yield _matrix(f"{blk}.ffn_up_exps", n, n_ff, n_embd, gain=1.5)
    yield _matrix(f"{blk}.ffn_down_exps", n, n_embd, n_ff, gain=1.5)
    if shape.moe_bias:
        yield _bias(f"{blk}.ffn_gate_inp", n)
        yield _bias(f"{blk}.ffn_gate_exps", n, n_ff)
        yield _bias(f"{blk}.ffn_up_exps", n, n_ff)
        yield _bias(f"{blk}.ffn_down_exps", n, n_embd)


# -- metadata -------------------------------------------------------------------------------------


def _metadata(shape: Shape) -> dict[str, Value]:
    n_ff_parent = shape.n_ff * (shape.n_expert_used if shape.arch in _EXPERT_PARENT else 1)
    keys: dict[str, Value] = {
        "vocab_size": shape.n_vocab,
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "block_count": shape.n_layer,
        "feed_forward_length": n_ff_parent,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": shape.head_dim,
        "rope.freq_base": 1e6 if shape.arch == "gemma3" else 1e4,
    }
    if shape.n_expert:
        keys |= {"expert_count": shape.n_expert, "expert_used_count": shape.n_expert_used}
        if shape.arch != "llama":
            keys["expert_feed_forward_length"] = shape.n_ff
    if shape.n_swa:
        keys["attention.sliding_window"] = shape.n_swa
    return {f"{shape.arch}.{key}": value for key, value in (keys | _rope_scaling(shape)).items()}


def _rope_scaling(shape: Shape) -> dict[str, Value]:
    """Return rope scaling as in the published models: Gemma 3 from 4B on, and gpt-oss."""
    if shape.arch == "gemma3":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    if shape.arch == "gpt-oss":
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 32.0,
            "rope.scaling.original_context_length": 32,
        }
    return {}


# -- writing --------------------------------------------------------------------------------------


def _write_file(
    path: Path,
    shape: Shape,
    tensors: Sequence[_Tensor],
    type_name: str,
    *,
    seed: int,
    vocab: Path | None,
    split: tuple[int, int, int] | None,
) -> None:
    writer = gguf.GGUFWriter(path, shape.arch)
    if split is not None and split[0] > 0:
        writer.kv_data[0].clear()  # the writer begins with general.architecture
    else:
        _add_metadata(writer, shape, vocab)
    if split is not None:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[type_name if tensor.is_matrix else "F32"]
        writer.add_tensor(tensor.name, _encode(tensor, kind, seed), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: Any, shape: Shape, vocab: Path | None) -> None:
    writer.add_name(f"random {shape.arch}")
    for key, value in _metadata(shape).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    if vocab is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        copy_tokenizer(writer, shape.n_vocab, vocab)


def copy_tokenizer(writer: Any, n_vocab: int, vocab: Path) -> None:
    """Copy a GGUF's `tokenizer.*` keys. Raises ValueError if it does not have n_vocab tokens."""
    fields = gguf.GGUFReader(vocab).fields
    n_tokens = len(fields["tokenizer.ggml.tokens"].data)
    if n_tokens != n_vocab:
        raise ValueError(f"{vocab} has {n_tokens} tokens, the shape {n_vocab}: make it equal")
    for key, field in fields.items():
        if key.startswith("tokenizer."):
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)


def _encode(tensor: _Tensor, kind: Any, seed: int) -> npt.NDArray[np.uint8]:
    """Encode random values in a tensor type, by llama.cpp's encoder: uint8 [..., bytes of a row]."""
    library = binding._lib
    library.ggml_row_size.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    n_per_row = tensor.shape[-1]
    block = library.ggml_blck_size(ctypes.c_int(kind))
    if n_per_row % block:
        raise ValueError(
            f"{tensor.name} has rows of {n_per_row}, {kind.name} blocks of {block}: "
            "take another type or a multiple"
        )
    values = _values(tensor, seed)
    row_bytes = library.ggml_row_size(ctypes.c_int(kind), ctypes.c_int64(n_per_row))
    encoded = np.empty((*tensor.shape[:-1], row_bytes), np.uint8)
    library.ggml_quantize_chunk(
        ctypes.c_int(kind),
        values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
        encoded.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0),
        ctypes.c_int64(values.size // n_per_row),
        ctypes.c_int64(n_per_row),
        None,
    )
    return encoded


def _values(tensor: _Tensor, seed: int) -> Floats:
    random = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    values = random.standard_normal(tensor.shape, np.float32)
    if tensor.name == "rope_freqs.weight":  # divisors of frequencies: keep them positive
        values = np.clip(values, -2, 2)
    return values * np.float32(tensor.std) + np.float32(tensor.mean)


# -- llama.cpp ------------------------------------------------------------------------------------

_messages: deque[str] = deque(maxlen=8)


@binding.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_message(_level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    """Collect llama.cpp's last messages; it lives as long as the module, as llama.cpp refers to it."""
    _messages.append(text.decode(errors="replace"))


@contextmanager
def _loaded(path: Path, n_ctx: int, n_batch: int) -> Iterator[tuple[Any, Any]]:
    """Load the model and a context, on one CPU thread and without mmap; free both afterwards."""
    binding.llama_log_set(_keep_message, ctypes.c_void_p(0))
    binding.llama_backend_init()
    model_params = binding.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model_params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    model_params.use_extra_bufts = not has_amx()  # the same kernels as the ranks'
    model = binding.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise RuntimeError(f"llama.cpp refuses {path}: {''.join(_messages)}")
    params = binding.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = n_batch
    params.n_threads = params.n_threads_batch = 1
    nodes = CustomNodes()  # as the ranks'
    params.cb_eval = type(params.cb_eval)(graph_callback())
    params.cb_eval_user_data = nodes.handle
    context = binding.llama_init_from_model(model, params)
    try:
        if not context:
            raise RuntimeError(f"llama.cpp makes no context for {path}: {''.join(_messages)}")
        yield model, context
    finally:
        if context:
            binding.llama_free(context)
        nodes.close()
        binding.llama_model_free(model)


def _decode(context: Any, tokens: Sequence[int], n_vocab: int) -> Floats:
    """Decode `tokens` and return the last one's logits: float32 [n_vocab]."""
    ids = (binding.llama_token * len(tokens))(*tokens)
    status = binding.llama_decode(context, binding.llama_batch_get_one(ids, len(tokens)))
    if status != 0:
        raise RuntimeError(f"llama_decode answers {status}: {''.join(_messages)}")
    row = binding.llama_get_logits_ith(context, -1)
    return np.ctypeslib.as_array(row, shape=(n_vocab,)).copy()
