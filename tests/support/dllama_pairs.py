"""Writes Distributed Llama's files (`.m` and `.t`) from a GGUF, and tokenizes as Distributed Llama does.

Knows the formats on its own: nothing of dure's reader is used.
Source: Distributed Llama `converter/writer.py`, `converter/tokenizer-writer.py`, `src/tokenizer.cpp`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np

MODEL_MAGIC, TOKENIZER_MAGIC, OLD_TOKENIZER_MAGIC = 0xA00ABCD, 0x567124, 0x567123
ARCHITECTURES = {"llama": 0xABCD00, "qwen3": 0xABCD01, "qwen3moe": 0xABCD02}
FLOAT_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 3}
_LOWEST = -1e10


def header(magic: int, pairs: Mapping[int, int]) -> bytes:
    """Return a header with these pairs of key and value."""
    data = b"".join(struct.pack("<ii", key, value) for key, value in pairs.items())
    return struct.pack("<ii", magic, 8 + len(data)) + data


def write_dllama_model(
    path: Path, source: Path, weight_type: str, more: Mapping[int, int] | None = None
) -> None:
    """Write a GGUF's weights as a `.m` file. more: pairs that replace or follow those of its sizes."""
    reader = gguf.GGUFReader(source)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    pairs = _sizes(reader, weight_type) | dict(more or {})
    embedding = tensors["token_embd.weight"]
    with path.open("wb") as file:
        file.write(header(MODEL_MAGIC, pairs))
        floats = gguf.quants.dequantize(embedding.data, embedding.tensor_type)
        file.write(floats.astype("<f4").tobytes())
        for layer in range(pairs[4]):
            for data in _layer(tensors, f"blk.{layer}.", pairs[7]):
                file.write(data.tobytes())
        file.write(tensors["output_norm.weight"].data.tobytes())
        file.write(tensors.get("output.weight", embedding).data.tobytes())


def _sizes(reader: Any, weight_type: str) -> dict[int, int]:
    architecture = str(reader.get_field("general.architecture").contents())

    def value(key: str, default: float = 0) -> Any:
        found = reader.get_field(f"{architecture}.{key}")
        return found.contents() if found else default

    pairs = {
        0: 0,
        1: ARCHITECTURES[architecture],
        2: value("embedding_length"),
        3: value("feed_forward_length"),
        4: value("block_count"),
        5: value("attention.head_count"),
        6: value("attention.head_count_kv"),
        7: value("expert_count"),
        8: value("expert_used_count"),
        9: value("vocab_size"),
        10: value("context_length"),
        11: 1,  # SiLU
        12: int(value("rope.freq_base")),
        13: FLOAT_TYPES[weight_type],
        19: value("attention.key_length"),
        20: 6 if value("attention.layer_norm_rms_epsilon") < 5e-6 else 5,
    }
    return pairs | ({21: value("expert_feed_forward_length")} if pairs[7] else {})


def _layer(tensors: Mapping[str, Any], block: str, n_experts: int) -> Iterator[Any]:
    def data(*names: str) -> Iterator[Any]:
        return (tensors[f"{block}{name}.weight"].data for name in names)

    yield from data("attn_q", "attn_k", "attn_v", "attn_output")
    if n_experts:
        yield from data("ffn_gate_inp")
        for expert in range(n_experts):
            stacks = data("ffn_gate_exps", "ffn_down_exps", "ffn_up_exps")
            yield from (stack[expert] for stack in stacks)
    else:
        yield from data("ffn_gate", "ffn_down", "ffn_up")
    if f"{block}attn_q_norm.weight" in tensors:
        yield from data("attn_q_norm", "attn_k_norm")
    yield from data("attn_norm", "ffn_norm")


@dataclass(frozen=True)
class DllamaTokenizer:
    """A `.t` file's contents, and Distributed Llama's own rules for its tokens."""

    tokens: Sequence[bytes]
    begin: int
    ends: Sequence[int]
    template: str = ""
    add_begin: bool = False
    scores: Sequence[float] = field(default=())

    @cached_property
    def all_scores(self) -> Sequence[float]:
        """Return every token's score; without any, as the converter makes them."""
        return self.scores or [-float(index) for index in range(len(self.tokens))]

    def file(self, more: Mapping[int, int] | None = None) -> bytes:
        """Return the file. more: pairs that replace or follow the others."""
        template = self.template.encode()
        pairs = {
            0: 1,
            1: len(self.tokens),
            2: max(map(len, self.tokens)),
            3: self.begin,
            **({7: len(template)} if template else {}),
            9: len(self.ends),
            10: int(self.add_begin),
        } | dict(more or {})
        ends = b"".join(struct.pack("<i", end) for end in self.ends)
        return header(TOKENIZER_MAGIC, pairs) + template + ends + self._words()

    def old_file(self) -> bytes:
        """Return a file of the format that Distributed Llama wrote at first, and still reads."""
        longest = max(map(len, self.tokens))
        sizes = (len(self.tokens), longest, self.begin, self.ends[0], -1)
        return struct.pack("<6i", OLD_TOKENIZER_MAGIC, *sizes) + self._words()

    def _words(self) -> bytes:
        return b"".join(
            struct.pack("<fI", score, len(token)) + token
            for token, score in zip(self.tokens, self.all_scores, strict=True)
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, by `Tokenizer::encode` with special tokens."""
        regular, special = self._regular, list(enumerate(self.tokens))[self.begin :]
        data, tokens, held = text.encode(), [self.begin] if self.add_begin else [], b""
        at = 0
        while at < len(data):
            if found := next((i for i, name in special if data.startswith(name, at)), None):
                tokens.append(found)
                at += len(self.tokens[found])
                continue
            held += data[at : at + 1]
            at += 1
            if held in regular:
                tokens.append(regular[held])
                held = b""
        assert not held
        return self._merged(tokens, regular)

    @cached_property
    def _regular(self) -> Mapping[bytes, int]:
        return {token: index for index, token in enumerate(self.tokens[: self.begin])}

    def _merged(self, tokens: list[int], regular: Mapping[bytes, int]) -> list[int]:
        while True:
            best, place, joined = _LOWEST, -1, -1
            for index in range(len(tokens) - 1):
                pair = self.tokens[tokens[index]] + self.tokens[tokens[index + 1]]
                token = regular.get(pair, -1)
                if token >= 0 and self.all_scores[token] > best:
                    best, place, joined = self.all_scores[token], index, token
            if place < 0:
                return tokens
            tokens[place : place + 2] = [joined]


def tokenizer_of(source: Path) -> DllamaTokenizer:
    """Return a GGUF's byte-level tokens as Distributed Llama's converter reads them."""
    reader = gguf.GGUFReader(source)
    texts = reader.get_field("tokenizer.ggml.tokens").contents()
    kinds = reader.get_field("tokenizer.ggml.token_type").contents()
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    byte_of = {chr(byte): byte for byte in shown}
    byte_of |= {chr(256 + index): byte for index, byte in enumerate(others)}
    begin = next(index for index, kind in enumerate(kinds) if kind != 1)
    tokens = [bytes(byte_of[letter] for letter in text) for text in texts[:begin]]
    tokens += [text.encode() for text in texts[begin:]]
    return DllamaTokenizer(
        tokens,
        begin,
        [reader.get_field("tokenizer.ggml.eos_token_id").contents()],
        reader.get_field("tokenizer.chat_template").contents(),
    )


def dequantized(data: Any, kind: Any) -> Any:
    """Return a tensor as float32."""
    return np.asarray(gguf.quants.dequantize(data, kind))
