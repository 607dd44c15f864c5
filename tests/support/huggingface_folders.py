"""Writes folders as Hugging Face's writers do, by hand: safetensors, config.json, tokenizer.json.

Knows the formats, not our code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stored = tuple[str, tuple[int, ...], bytes]
"""A tensor of a safetensors file: type, shape, bytes."""

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
N_EMBD, N_FF, N_KV, N_VOCAB = 64, 96, 32, 320
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w")]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Return the tensors of a file that is well formed."""
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            one["dtype"],
            tuple(one["shape"]),
            data[start + one["data_offsets"][0] : start + one["data_offsets"][1]],
        )
        for name, one in header.items()
    }


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write tensors to a file."""
    header, end = {}, 0
    for name, (kind, shape, data) in tensors.items():
        header[name] = {
            "dtype": kind,
            "shape": list(shape),
            "data_offsets": [end, end + len(data)],
        }
        end += len(data)
    write_raw(path, json.dumps(header).encode(), b"".join(one[2] for one in tensors.values()))


def write_raw(path: Path, header: bytes, data: bytes) -> None:
    """Write a file with this header, whatever it is."""
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def floats(*shape: int, seed: int = 0) -> Stored:
    """Return random float32 numbers."""
    random = np.random.default_rng([seed, *shape])
    return "F32", shape, random.standard_normal(shape).astype("<f4").tobytes()


def numbers(stored: Stored) -> NDArray[np.float32]:
    """Return the numbers of a tensor of floats."""
    kind, shape, data = stored
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[kind]).astype("<f4").reshape(shape)


def as_bf16(stored: Stored) -> Stored:
    """Return float32 numbers cut to bfloat16."""
    words = np.frombuffer(stored[2], "<u4") >> 16
    return "BF16", stored[1], words.astype("<u2").tobytes()


def llama_tensors() -> dict[str, Stored]:
    """Return the tensors of a tiny Llama."""
    tensors = {"model.embed_tokens.weight": floats(N_VOCAB, N_EMBD)}
    for layer in range(2):
        shapes = {
            "self_attn.q_proj": (N_EMBD, N_EMBD),
            "self_attn.k_proj": (N_KV, N_EMBD),
            "self_attn.v_proj": (N_KV, N_EMBD),
            "self_attn.o_proj": (N_EMBD, N_EMBD),
            "mlp.gate_proj": (N_FF, N_EMBD),
            "mlp.up_proj": (N_FF, N_EMBD),
            "mlp.down_proj": (N_EMBD, N_FF),
            "input_layernorm": (N_EMBD,),
            "post_attention_layernorm": (N_EMBD,),
        }
        for seed, (name, shape) in enumerate(shapes.items()):
            tensors[f"model.layers.{layer}.{name}.weight"] = floats(*shape, seed=10 * layer + seed)
    tensors["model.norm.weight"] = floats(N_EMBD, seed=3)
    tensors["lm_head.weight"] = floats(N_VOCAB, N_EMBD, seed=4)
    return tensors


def byte_texts() -> list[str]:
    """Return how byte-level tokenizers write each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    texts = {byte: chr(byte) for byte in shown}
    texts |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [texts[byte] for byte in range(256)]


def byte_level_tokenizer(pattern: str = LLAMA3) -> dict[str, Any]:
    """Return a tokenizer.json of 256 bytes, a few merges and two special tokens."""
    texts = [*byte_texts(), *("".join(pair) for pair in MERGES)]
    begin = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": 300, "content": "<|begin|>", "special": True},
            {"id": 301, "content": "<|stop|>", "special": True},
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": [list(pair) for pair in MERGES],
        },
    }


def write_json(path: Path, value: object) -> None:
    """Write a file of JSON."""
    path.write_text(json.dumps(value))


def write_llama(
    folder: Path,
    tensors: Mapping[str, Stored] | None = None,
    config: Mapping[str, object] = CONFIG,
    tokenizer: Mapping[str, object] | None = None,
) -> Path:
    """Write the folder of a tiny Llama and return it."""
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", llama_tensors() if tensors is None else tensors)
    write_json(folder / "config.json", config)
    write_json(
        folder / "tokenizer.json", byte_level_tokenizer() if tokenizer is None else tokenizer
    )
    roles = {"bos_token": "<|begin|>", "eos_token": "<|stop|>"}
    write_json(folder / "tokenizer_config.json", roles)
    return folder


def write_wide(folder: Path, n_ff: int) -> Path:
    """Write the folder of a Llama whose only layer has n_ff columns of zeros, in the hole of a file."""
    write_llama(folder, config={**CONFIG, "num_hidden_layers": 1, "intermediate_size": n_ff})
    tensors = {name: one for name, one in llama_tensors().items() if ".layers.1." not in name}
    header, size = {}, 4 * n_ff * N_EMBD
    for place, part in enumerate(("gate", "up", "down")):
        name = f"model.layers.0.mlp.{part}_proj.weight"
        del tensors[name]
        shape = [N_EMBD, n_ff] if part == "down" else [n_ff, N_EMBD]
        offsets = [place * size, (place + 1) * size]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model-1.safetensors", tensors)
    write_raw(folder / "model-2.safetensors", json.dumps(header).encode(), b"")
    with (folder / "model-2.safetensors").open("ab") as file:
        file.truncate(file.tell() + 3 * size)
    return folder
