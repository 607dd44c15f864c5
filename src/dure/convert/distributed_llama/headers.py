"""The headers of `.m` and `.t`: a magic number, a length, and pairs of 32-bit key and value.

Knows the keys, and which values a model can have. Every length is compared with the file's before it is
believed. Source: Distributed Llama `src/llm.hpp`, `src/tokenizer.hpp`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

from dure.errors import ModelError

MODEL_MAGIC = 0xA00ABCD
_OLD_MODEL_MAGICS = (0xABCD00, 0xABCD01)
_MOST_PAIRS = 256  # the formats know 22 and 11 keys
_LARGEST_SIZE = 1 << 20  # of a dimension; the largest vocabularies have 262,144 tokens
_MOST_LAYERS = _MOST_EXPERTS = 512  # of llama.cpp
_T = TypeVar("_T")
_AGAIN = "convert the model again, with Distributed Llama's newest converter"


class ModelKey(IntEnum):
    """What a value in a model's header means."""

    VERSION = 0
    ARCHITECTURE = 1
    EMBEDDING = 2
    FEED_FORWARD = 3
    LAYERS = 4
    HEADS = 5
    KV_HEADS = 6
    EXPERTS = 7
    EXPERTS_USED = 8
    VOCABULARY = 9
    CONTEXT = 10
    ACTIVATION = 11
    ROPE_BASE = 12
    WEIGHT_TYPE = 13
    ROPE_FACTOR = 14
    ROPE_LOW_FACTOR = 15
    ROPE_HIGH_FACTOR = 16
    ROPE_ORIGINAL_CONTEXT = 17
    ROPE_TYPE = 18
    HEAD_SIZE = 19
    NORM_EPSILON = 20
    EXPERT_FEED_FORWARD = 21


_ARCHITECTURES = {0xABCD00: "llama", 0xABCD01: "qwen3", 0xABCD02: "qwen3moe"}
_WEIGHT_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q8_0"}
_NORM_EPSILONS = {5: 1e-5, 6: 1e-6}
_SILU = 1


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 stretches its context."""

    factor: int
    low_factor: int
    high_factor: int
    original_context: int


@dataclass(frozen=True)
class ModelHeader:
    """A model's sizes, checked. weight_type: llama.cpp's name. header_bytes: where the weights start."""

    architecture: str
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    rope_base: float
    rope_scaling: RopeScaling | None
    norm_epsilon: float
    weight_type: str
    experts: int
    experts_used: int
    expert_feed_forward: int
    header_bytes: int

    @property
    def head_norms(self) -> bool:
        """Return whether queries and keys are normalized per head."""
        return self.architecture.startswith("qwen3")


class HeaderReader:
    """Reads a file from its start, never past its end. Raises ModelError."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.name = path.name
        self._file = file
        self.left = self.size = os.fstat(file.fileno()).st_size

    def fail(self, problem: str, cure: str = "it is damaged, get it again") -> NoReturn:
        """Raise the error of this file."""
        raise ModelError(f"{self.name}: {problem}", cure)

    def take(self, n_bytes: int, what: str) -> bytes:
        """Return the next bytes."""
        data = self._file.read(n_bytes) if 0 <= n_bytes <= self.left else b""
        if len(data) != n_bytes:
            self.fail(
                f"{what} needs {n_bytes} bytes but {self.left} are left",
                "it is cut short, get it again",
            )
        self.left -= n_bytes
        return data

    def integer(self, what: str) -> int:
        """Return the next 32-bit number."""
        return int(struct.unpack("<i", self.take(4, what))[0])

    def pairs(self, keys: Container[int]) -> dict[int, int]:
        """Return the pairs of key and value that follow the magic number."""
        size = self.integer("the header's length")
        n_pairs, rest = divmod(size - 8, 8)
        if rest or not 0 <= n_pairs <= _MOST_PAIRS:
            self.fail(f"the header cannot be {size} bytes long")
        pairs = dict(struct.iter_unpack("<ii", self.take(8 * n_pairs, "the header")))
        for key in pairs:
            if key not in keys:
                self.fail(f"the header has the unknown key {key}", "use a newer dure, or " + _AGAIN)
        return pairs


def read_model_header(path: Path) -> ModelHeader:
    """Read and check the header of a `.m` file. Raises ModelError."""
    with path.open("rb") as file:
        reader = HeaderReader(file, path)
        magic = reader.integer("the magic number") & 0xFFFFFFFF
        if magic in _OLD_MODEL_MAGICS:
            reader.fail("this is Distributed Llama's old format", _AGAIN)
        if magic != MODEL_MAGIC:
            reader.fail("this is no model of Distributed Llama", "name a .m file of its converter")
        pairs = reader.pairs(frozenset(ModelKey))
        return _Sizes(reader, pairs).header(reader.size - reader.left)


class _Sizes:
    """Turns pairs into a header, or into the error that says which of them is impossible."""

    def __init__(self, reader: HeaderReader, pairs: Mapping[int, int]) -> None:
        self._reader, self._pairs = reader, pairs

    def header(self, header_bytes: int) -> ModelHeader:
        architecture = self._one_of(ModelKey.ARCHITECTURE, _ARCHITECTURES)
        self._check_activation()
        embedding, heads = self._size(ModelKey.EMBEDDING), self._size(ModelKey.HEADS)
        experts, experts_used, expert_feed_forward = self._experts(architecture)
        header = ModelHeader(
            architecture=architecture,
            layers=self._size(ModelKey.LAYERS, _MOST_LAYERS),
            embedding=embedding,
            feed_forward=self._size(ModelKey.FEED_FORWARD),
            heads=heads,
            kv_heads=self._size(ModelKey.KV_HEADS),
            head_size=self._head_size(embedding, heads),
            vocabulary=self._size(ModelKey.VOCABULARY),
            context=self._size(ModelKey.CONTEXT, 1 << 30),
            rope_base=float(self._size(ModelKey.ROPE_BASE, (1 << 31) - 1, 10_000)),
            rope_scaling=self._rope_scaling(architecture),
            norm_epsilon=self._one_of(ModelKey.NORM_EPSILON, _NORM_EPSILONS, 5),
            weight_type=self._one_of(ModelKey.WEIGHT_TYPE, _WEIGHT_TYPES),
            experts=experts,
            experts_used=experts_used,
            expert_feed_forward=expert_feed_forward,
            header_bytes=header_bytes,
        )
        if header.heads % header.kv_heads:
            self._reader.fail(f"{header.heads} heads cannot share {header.kv_heads} KV heads")
        return header

    def _value(self, key: ModelKey, default: int | None) -> int:
        value = self._pairs.get(key, default)
        if value is None:
            self._reader.fail(f"the header does not say {_words(key)}")
        return value

    def _size(self, key: ModelKey, most: int = _LARGEST_SIZE, default: int | None = None) -> int:
        value = self._value(key, default)
        if not 1 <= value <= most:
            self._reader.fail(f"{_words(key)} in the header is {value}, not 1 to {most}")
        return value

    def _one_of(self, key: ModelKey, known: Mapping[int, _T], default: int | None = None) -> _T:
        value = self._value(key, default)
        if value not in known:
            names = ", ".join(str(name) for name in known.values())
            self._reader.fail(
                f"{_words(key)} in the header is the unknown {value}", f"dure imports {names}"
            )
        return known[value]

    def _head_size(self, embedding: int, heads: int) -> int:
        if self._pairs.get(ModelKey.HEAD_SIZE):
            size = self._size(ModelKey.HEAD_SIZE)
        else:
            size, rest = divmod(embedding, heads)
            if rest:
                self._reader.fail(f"{heads} heads cannot share an embedding of {embedding}")
        if size % 2:
            self._reader.fail(f"a head of {size} numbers cannot be rotated in pairs")
        return size

    def _experts(self, architecture: str) -> tuple[int, int, int]:
        n_experts = self._value(ModelKey.EXPERTS, 0)
        if architecture != "qwen3moe":
            if n_experts:
                self._reader.fail(
                    f"it has {n_experts} experts, but {architecture} is run without them",
                    "import the original model instead, which Distributed Llama no longer runs",
                )
            return 0, 0, 0
        experts = self._size(ModelKey.EXPERTS, _MOST_EXPERTS)
        return (
            experts,
            self._size(ModelKey.EXPERTS_USED, experts),
            self._size(ModelKey.EXPERT_FEED_FORWARD),
        )

    def _rope_scaling(self, architecture: str) -> RopeScaling | None:
        if self._pairs.get(ModelKey.ROPE_FACTOR, 1) == 1:
            return None
        scaling = RopeScaling(
            self._size(ModelKey.ROPE_FACTOR),
            self._size(ModelKey.ROPE_LOW_FACTOR),
            self._size(ModelKey.ROPE_HIGH_FACTOR),
            self._size(ModelKey.ROPE_ORIGINAL_CONTEXT, 1 << 30),
        )
        if architecture != "llama" or scaling.high_factor <= scaling.low_factor:
            self._reader.fail(f"the header scales {architecture}'s positions by {scaling}")
        return scaling

    def _check_activation(self) -> None:
        activation = self._value(ModelKey.ACTIVATION, _SILU)
        if activation != _SILU:
            self._reader.fail(
                f"its activation is {activation}, and Distributed Llama computes only SiLU",
                "import the original model instead",
            )


def _words(key: ModelKey) -> str:
    return f"{key.name.lower().replace('_', ' ')} (key {key})"
