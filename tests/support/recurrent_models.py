"""Writes small models with a running state and random weights, as llama.cpp reads them.

Mamba 2 has nothing but states; Granite's hybrid has them in all layers but those with attention.
Knows nothing about dure. Source: llama.cpp `src/models/mamba2.cpp`, `granite-hybrid.cpp`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tests.support.random_models import copy_tokenizer

RECURRENT = ("mamba2", "granitehybrid")
ATTENTION = (1, 3)  # these layers of the hybrid have attention
N_LAYER, N_EMBD, N_FF, N_HEAD, N_HEAD_KV = 4, 128, 256, 4, 2
CONV, INNER, STATE, N_SSM_HEAD, N_GROUP = 4, 256, 32, 8, 1
Tensor = tuple[str, tuple[int, ...], float, float]  # name, shape, deviation, mean


def write_recurrent_model(path: Path, architecture: str, n_vocab: int, vocab: Path) -> None:
    """Write one of RECURRENT as float32. vocab: a GGUF with n_vocab tokens, which are copied."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"random {architecture}")
    kv_heads = [0] * N_LAYER
    if architecture == "granitehybrid":
        kv_heads = [N_HEAD_KV if i in ATTENTION else 0 for i in range(N_LAYER)]
    for key, value in {
        "vocab_size": n_vocab,
        "context_length": 4096,
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": 0 if architecture == "mamba2" else N_FF,
        "attention.head_count": 0 if architecture == "mamba2" else N_HEAD,
        "ssm.conv_kernel": CONV,
        "ssm.inner_size": INNER,
        "ssm.state_size": STATE,
        "ssm.time_step_rank": N_SSM_HEAD,
        "ssm.group_count": N_GROUP,
    }.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    if architecture != "mamba2":
        writer.add_array(f"{architecture}.attention.head_count_kv", kv_heads)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6)
    copy_tokenizer(writer, n_vocab, vocab)
    for tensor in _tensors(kv_heads, n_vocab, has_ffn=architecture != "mamba2"):
        writer.add_tensor(tensor[0], _values(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(kv_heads: list[int], n_vocab: int, *, has_ffn: bool) -> Iterator[Tensor]:
    yield _matrix("token_embd", n_vocab, N_EMBD, gain=N_EMBD**0.5)
    yield _norm("output_norm", N_EMBD)
    yield _matrix("output", n_vocab, N_EMBD, gain=2.0)
    for i, n_kv in enumerate(kv_heads):
        yield _norm(f"blk.{i}.attn_norm", N_EMBD)
        yield from _attention(f"blk.{i}", n_kv) if n_kv else _state(f"blk.{i}")
        if has_ffn:
            yield _norm(f"blk.{i}.ffn_norm", N_EMBD)
            for name, shape in (("gate", (N_FF, N_EMBD)), ("up", (N_FF, N_EMBD))):
                yield _matrix(f"blk.{i}.ffn_{name}", *shape)
            yield _matrix(f"blk.{i}.ffn_down", N_EMBD, N_FF)


def _attention(blk: str, n_kv: int) -> Iterator[Tensor]:
    head = N_EMBD // N_HEAD
    for name, n_rows in (("q", N_EMBD), ("k", n_kv * head), ("v", n_kv * head)):
        yield _matrix(f"{blk}.attn_{name}", n_rows, N_EMBD, gain=1.5)
    yield _matrix(f"{blk}.attn_output", N_EMBD, N_EMBD, gain=1.5)


def _state(blk: str) -> Iterator[Tensor]:
    n_conv = INNER + 2 * N_GROUP * STATE
    yield _matrix(f"{blk}.ssm_in", INNER + n_conv + N_SSM_HEAD, N_EMBD)
    yield _matrix(f"{blk}.ssm_conv1d", n_conv, CONV)
    yield (f"{blk}.ssm_conv1d.bias", (n_conv,), 0.2, 0.0)
    yield (f"{blk}.ssm_dt.bias", (N_SSM_HEAD,), 0.5, -3.0)
    yield (
        f"{blk}.ssm_a",
        (N_SSM_HEAD, 1),
        0.02,
        -0.1,
    )  # decays slowly: the text's beginning counts
    yield (f"{blk}.ssm_d", (N_SSM_HEAD, 1), 0.2, 1.0)
    yield _norm(f"{blk}.ssm_norm", INNER)
    yield _matrix(f"{blk}.ssm_out", N_EMBD, INNER)


def _matrix(name: str, *shape: int, gain: float = 1.0) -> Tensor:
    return f"{name}.weight", shape, gain / shape[-1] ** 0.5, 0.0


def _norm(name: str, n: int) -> Tensor:
    shape = (N_GROUP, n) if name.endswith("ssm_norm") else (n,)
    return f"{name}.weight", shape, 0.1, 1.0


def _values(tensor: Tensor) -> npt.NDArray[np.float32]:
    name, shape, deviation, mean = tensor
    random = np.random.default_rng(zlib.crc32(name.encode()))
    values = random.standard_normal(shape, np.float32) * np.float32(deviation)
    return values + np.float32(mean)
