"""Writes models with a real model's shape and random weights, to measure speed.

Knows the shapes of a few published models, how to write them as GGUF in a mix of types, and how to
write the same weights in the files that Distributed Llama reads (`.m` and `.t`; of shapes only `q4_0`).
Refuses to know who runs them.

A random quantized matrix takes as long to multiply as a trained one, so no download is needed.
If a published model shares one matrix between embedding and output, so do these files.
Rope scaling is left out: it changes the angles, not the work.
Files are cached; an unfinished file never gets its name.

    python bench/shapes.py qwen3-0.6b --dllama
"""

from __future__ import annotations

import argparse
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from measure import BenchError, main, progress

REVISION = 3
"""Part of every file name: raised when the contents of the files change."""

SEED = 20_251
CONTEXT_LENGTH = 32_768
EXPONENT_BIAS = 128  # of MXFP4, whose numbers ggml keeps doubled
DLLAMA_CONTEXT_LENGTH = 4096  # its KV cache is as long
LARGEST_PIECE = 64 << 20
CURE = "pip install --group bench, in dure's folder"  # if gguf is not installed


@cache
def gguf_package() -> Any:
    """Return PyPI's gguf. Raises BenchError if it is not installed."""
    try:
        return import_module("gguf")
    except ModuleNotFoundError:
        raise BenchError(f"models are written with PyPI's gguf: {CURE}") from None


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that decide a model's work; names as in GGUF's metadata."""

    architecture: str
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    rope_base: int
    norm_epsilon_exponent: int  # 6 stands for 1e-6
    tied: bool  # the embedding is the output matrix too
    experts: int = 0
    experts_used: int = 0
    expert_feed_forward: int = 0

    @property
    def head_norms(self) -> bool:
        """Return whether queries and keys are normalized per head, as in Qwen3."""
        return self.architecture.startswith("qwen3")


SHAPES: dict[str, Shape] = {
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, 151_936, 1_000_000, 6, True),
    "qwen3-1.7b": Shape("qwen3", 28, 2048, 6144, 16, 8, 128, 151_936, 1_000_000, 6, True),
    "llama-3.2-1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128_256, 500_000, 5, True),
    "qwen3-30b-a3b-12-layers": Shape(
        "qwen3moe", 12, 2048, 6144, 32, 4, 128, 151_936, 1_000_000, 6, False,
        experts=128, experts_used=8, expert_feed_forward=768,
    ),
    "qwen3-30b-a3b": Shape(
        "qwen3moe", 48, 2048, 6144, 32, 4, 128, 151_936, 1_000_000, 6, False,
        experts=128, experts_used=8, expert_feed_forward=768,
    ),
}  # fmt: skip
"""Published shapes (source: each model's `config.json`); one has 12 of its 48 layers."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Types of a model's matrices: of most, of those that get more bits, and of the output."""

    most: str
    careful: str
    output: str
    file_type: str  # as GGUF's metadata names it


MIXES: dict[str, Mix] = {
    "q4_0": Mix("Q4_0", "Q4_0", "Q4_0", "MOSTLY_Q4_0"),
    "q4_k_m": Mix("Q4_K", "Q6_K", "Q6_K", "MOSTLY_Q4_K_M"),
    "q8_0": Mix("Q8_0", "Q8_0", "Q8_0", "MOSTLY_Q8_0"),
    "q2_k": Mix("Q2_K", "Q2_K", "Q6_K", "MOSTLY_Q2_K"),
    "q3_k_s": Mix("Q3_K", "Q3_K", "Q6_K", "MOSTLY_Q3_K_S"),
    "iq4_xs": Mix("IQ4_XS", "IQ4_XS", "Q6_K", "MOSTLY_IQ4_XS"),
    "mxfp4": Mix("MXFP4", "MXFP4", "Q8_0", "MOSTLY_MXFP4_MOE"),
    "iq3_s": Mix("IQ3_S", "IQ3_S", "Q6_K", "MOSTLY_IQ3_S"),
    "iq2_s": Mix("IQ2_S", "IQ2_S", "Q5_K", "MOSTLY_IQ2_S"),
}
"""Types as `llama-quantize` gives them; but `q4_0` is Q4_0 throughout, as for Distributed Llama, and the
few-bit ones have their type in all matrices but the output, so that a table tells of one type."""

COMMON_MIXES = ("q4_0", "q4_k_m", "q8_0")


@dataclass(frozen=True, slots=True)
class Blocks:
    """A type's blocks: their weights and bytes, and the offsets of their scales (float16).

    A scale is `factor` times the weights' standard deviation, if all other bytes are uniformly random; a
    block's scales have a random sign, so that the mean is 0.
    An exponent is that of the power of two next to such a scale, with a bias, in one byte.
    """

    weights: int
    bytes: int
    scales: tuple[tuple[int, float], ...]  # offset in bytes, factor
    exponents: tuple[tuple[int, float], ...] = ()


BLOCKS: dict[str, Blocks] = {
    "Q4_0": Blocks(32, 18, ((0, 1 / 4.6),)),  # d * (n - 8)
    "Q8_0": Blocks(32, 34, ((0, 1 / 74),)),  # d * n
    "Q4_K": Blocks(256, 144, ((0, 1 / 258), (2, 7.5 / 258))),  # d * s * n - dmin * m
    "Q6_K": Blocks(256, 210, ((208, 1 / 1366),)),  # d * s * (n - 32)
    "Q2_K": Blocks(256, 84, ((80, 1 / 13.9), (82, 1.5 / 13.9))),  # d * s * n - dmin * m
    "Q3_K": Blocks(256, 110, ((108, 1 / 43.4),)),  # d * (s - 32) * (n - 4)
    "Q5_K": Blocks(256, 176, ((0, 1 / 526), (2, 15.5 / 526))),  # d * s * n - dmin * m
    "IQ4_XS": Blocks(256, 136, ((0, 1 / 1247),)),  # d * (s - 32) * one of 16 numbers
    "IQ3_S": Blocks(256, 110, ((0, 1 / 140),)),  # d * s * four of a table at once
    "IQ2_S": Blocks(256, 82, ((0, 1 / 56.3),)),  # d * s * eight of a table at once
    "MXFP4": Blocks(32, 17, (), ((0, 1 / 5.86),)),  # a power of two * one of 16 numbers
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to write: rows of `columns` weights, in the file's order of dimensions.

    deviation: of its weights, if it is random; None: a product keeps the length of a vector.
    """

    name: str
    dimensions: tuple[int, ...]  # slowest first; the last is the row
    kind: str  # a key of BLOCKS, or "ones" or "normal" (float32)
    deviation: float | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Return the array's shape: bytes for a quantized type, float32 numbers for the rest."""
        if (blocks := BLOCKS.get(self.kind)) is None:
            return self.dimensions
        return (*self.dimensions[:-1], self.dimensions[-1] // blocks.weights * blocks.bytes)

    def contents(self) -> npt.NDArray[Any]:
        """Return the weights, always the same for the same name, type and dimensions."""
        if self.kind == "ones":
            return np.ones(self.dimensions, np.float32)
        random = np.random.default_rng([SEED, zlib.crc32(self.name.encode())])
        deviation = self.deviation or float(self.dimensions[-1] ** -0.5)
        if self.kind == "normal":
            return random.standard_normal(self.dimensions, np.float32) * np.float32(deviation)
        blocks = BLOCKS[self.kind]
        n_blocks = math.prod(self.dimensions) // blocks.weights
        return _random_blocks(random, n_blocks, blocks, deviation).reshape(self.stored_shape)


def _random_blocks(
    random: np.random.Generator, n_blocks: int, blocks: Blocks, deviation: float
) -> npt.NDArray[np.uint8]:
    found = np.empty((n_blocks, blocks.bytes), np.uint8)
    step = LARGEST_PIECE // blocks.bytes
    for start in range(0, len(found), step):
        piece = found[start : start + step]
        piece[:] = random.integers(0, 256, piece.shape, dtype=np.uint8)
    signs = random.integers(0, 2, n_blocks, dtype=np.int8) * 2 - 1
    for offset, factor in blocks.scales:
        scales = (signs * (deviation * factor)).astype(np.float16)
        found[:, offset : offset + 2] = scales[:, None].view(np.uint8)
    for offset, factor in blocks.exponents:
        found[:, offset] = round(math.log2(deviation * factor)) + EXPONENT_BIAS
    return found


def tensors(shape: Shape, mix: str) -> Iterator[Tensor]:
    """Return all tensors of a model, with llama.cpp's names."""
    s, types = shape, MIXES[mix]
    main_type, best = types.most, types.output
    vocabulary = (s.vocabulary, s.embedding)
    # Larger than what layers add: else all tokens become alike, and choose the same experts.
    yield Tensor("token_embd.weight", vocabulary, best if s.tied else main_type, deviation=4.0)
    yield Tensor("output_norm.weight", (s.embedding,), "ones")
    if not s.tied:
        yield Tensor("output.weight", vocabulary, best)
    for layer in range(s.layers):
        careful = types.careful if _gets_more_bits(layer, s.layers) else main_type
        yield from _attention(s, f"blk.{layer}", main_type, careful)
        yield from (_experts if s.experts else _feed_forward)(s, f"blk.{layer}", main_type, careful)


def _gets_more_bits(layer: int, n_layers: int) -> bool:
    """Return whether a mix gives this layer's values and down projections more bits, as llama.cpp's do."""
    edge = n_layers // 8
    return layer < edge or layer >= 7 * n_layers // 8 or (layer - edge) % 3 == 2


def _attention(s: Shape, block: str, kind: str, careful: str) -> Iterator[Tensor]:
    query, key = s.heads * s.head_size, s.kv_heads * s.head_size
    yield Tensor(f"{block}.attn_norm.weight", (s.embedding,), "ones")
    yield Tensor(f"{block}.ffn_norm.weight", (s.embedding,), "ones")
    if s.head_norms:
        yield Tensor(f"{block}.attn_q_norm.weight", (s.head_size,), "ones")
        yield Tensor(f"{block}.attn_k_norm.weight", (s.head_size,), "ones")
    yield Tensor(f"{block}.attn_q.weight", (query, s.embedding), kind)
    yield Tensor(f"{block}.attn_k.weight", (key, s.embedding), kind)
    yield Tensor(f"{block}.attn_v.weight", (key, s.embedding), careful)
    yield Tensor(f"{block}.attn_output.weight", (s.embedding, query), kind)


def _feed_forward(s: Shape, block: str, kind: str, careful: str) -> Iterator[Tensor]:
    yield Tensor(f"{block}.ffn_gate.weight", (s.feed_forward, s.embedding), kind)
    yield Tensor(f"{block}.ffn_up.weight", (s.feed_forward, s.embedding), kind)
    yield Tensor(f"{block}.ffn_down.weight", (s.embedding, s.feed_forward), careful)


def _experts(s: Shape, block: str, kind: str, careful: str) -> Iterator[Tensor]:
    wide, narrow = s.expert_feed_forward, s.embedding
    yield Tensor(f"{block}.ffn_gate_inp.weight", (s.experts, narrow), "normal")
    yield Tensor(f"{block}.ffn_gate_exps.weight", (s.experts, wide, narrow), kind)
    yield Tensor(f"{block}.ffn_up_exps.weight", (s.experts, wide, narrow), kind)
    yield Tensor(f"{block}.ffn_down_exps.weight", (s.experts, narrow, wide), careful)


def default_directory() -> Path:
    """Return the default directory of the files: `dure/bench` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "dure" / "bench"


def shape_of(name: str) -> Shape:
    """Return the shape `name`. Raises BenchError, with the known names, if it is unknown."""
    if name not in SHAPES:
        raise BenchError(f"no shape is called {name!r}: choose from {', '.join(SHAPES)}")
    return SHAPES[name]


def gguf_file(name: str, directory: Path, mix: str = "q4_0") -> Path:
    """Return the GGUF of the shape `name`; it is written if missing."""
    shape = shape_of(name)
    path = directory / f"{name}-{mix}-r{REVISION}.gguf"
    if not path.exists():
        progress(f"writing {path}")
        with _finished(path) as unfinished:
            write_gguf(shape, mix, unfinished)
    return path


def dllama_files(name: str, directory: Path) -> tuple[Path, Path]:
    """Return Distributed Llama's model (`.m`) with the GGUF's weights, and its tokenizer (`.t`)."""
    shape = shape_of(name)
    source = gguf_file(name, directory)
    model, tokenizer = source.with_suffix(".m"), source.with_suffix(".t")
    for path, write in (
        (model, partial(write_dllama_model, shape, source)),
        (tokenizer, partial(_write_dllama_tokenizer, shape.vocabulary)),
    ):
        if not path.exists():
            progress(f"writing {path}")
            with _finished(path) as unfinished, unfinished.open("wb") as file:
                write(file)
    return model, tokenizer


@contextmanager
def _finished(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_gguf(shape: Shape, mix: str, path: Path) -> None:
    """Write a shape's random weights in a mix of types."""
    writer = gguf_package().GGUFWriter(path, shape.architecture)
    _add_metadata(writer, shape, mix)
    for tensor in tensors(shape, mix):
        quantized = tensor.kind in BLOCKS
        dtype = np.dtype(np.uint8 if quantized else np.float32)
        size = int(np.prod(tensor.stored_shape)) * dtype.itemsize
        raw = gguf_package().GGMLQuantizationType[tensor.kind if quantized else "F32"]
        writer.add_tensor_info(tensor.name, tensor.stored_shape, dtype, size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors(shape, mix):
        writer.write_tensor_data(tensor.contents())
    writer.close()


def _add_metadata(writer: Any, s: Shape, mix: str) -> None:
    writer.add_name("random weights")
    writer.add_file_type(gguf_package().LlamaFileType[MIXES[mix].file_type])
    writer.add_block_count(s.layers)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(s.embedding)
    writer.add_feed_forward_length(s.feed_forward)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_key_length(s.head_size)
    writer.add_value_length(s.head_size)
    writer.add_rope_dimension_count(s.head_size)
    writer.add_rope_freq_base(float(s.rope_base))
    writer.add_layer_norm_rms_eps(10.0**-s.norm_epsilon_exponent)
    writer.add_vocab_size(s.vocabulary)
    writer.add_tokenizer_model("no_vocab")
    if s.experts:
        writer.add_expert_count(s.experts)
        writer.add_expert_used_count(s.experts_used)
        writer.add_expert_feed_forward_length(s.expert_feed_forward)


# Distributed Llama's files (source: its `src/llm.hpp`, `src/llm.cpp`, `src/tokenizer.cpp`):
# a magic number, the header's size in bytes with both of these, then pairs of 32-bit key and
# value. Its Q4_0 block is ggml's; embedding, norms and router are float32.
_MODEL_MAGIC = 0xA00ABCD
_TOKENIZER_MAGIC = 0x567124
_ARCHITECTURES = {"llama": 0xABCD00, "qwen3": 0xABCD01, "qwen3moe": 0xABCD02}
_SILU = 1
_FLOAT_TYPES = {"F32": 0, "Q4_0": 2}


def _dllama_header(magic: int, pairs: Sequence[tuple[int, int]]) -> bytes:
    data = b"".join(struct.pack("<ii", key, value) for key, value in pairs)
    return struct.pack("<ii", magic, 8 + len(data)) + data


def _dllama_model_pairs(s: Shape, kind: str) -> list[tuple[int, int]]:
    pairs = [
        (0, 0),  # version
        (1, _ARCHITECTURES[s.architecture]),
        (2, s.embedding),
        (3, s.feed_forward),
        (4, s.layers),
        (5, s.heads),
        (6, s.kv_heads),
        (7, s.experts),
        (8, s.experts_used),
        (9, s.vocabulary),
        (10, DLLAMA_CONTEXT_LENGTH),
        (11, _SILU),
        (12, s.rope_base),
        (13, _FLOAT_TYPES[kind]),
        (19, s.head_size),
        (20, s.norm_epsilon_exponent),
    ]
    return [*pairs, (21, s.expert_feed_forward)] if s.experts else pairs


def write_dllama_model(shape: Shape, source: Path, file: BinaryIO, kind: str = "Q4_0") -> None:
    """Write a GGUF's weights as a `.m` file. kind: the type of all its matrices, Q4_0 or F32."""
    weights = {tensor.name: tensor.data for tensor in gguf_package().GGUFReader(source).tensors}
    embedding = weights["token_embd.weight"]
    file.write(_dllama_header(_MODEL_MAGIC, _dllama_model_pairs(shape, kind)))
    rows = max(1, LARGEST_PIECE // (4 * shape.embedding))
    for start in range(0, shape.vocabulary, rows):
        piece = gguf_package().dequantize(
            embedding[start : start + rows], gguf_package().GGMLQuantizationType[kind]
        )
        file.write(piece.astype("<f4").tobytes())
    for layer in range(shape.layers):
        for matrix in _dllama_layer(shape, layer, weights):
            file.write(matrix.tobytes())
    file.write(weights["output_norm.weight"].tobytes())
    file.write(weights.get("output.weight", embedding).tobytes())


def _dllama_layer(
    shape: Shape, layer: int, weights: dict[str, npt.NDArray[Any]]
) -> Iterator[npt.NDArray[Any]]:
    def named(*names: str) -> Iterator[npt.NDArray[Any]]:
        return (weights[f"blk.{layer}.{name}.weight"] for name in names)

    yield from named("attn_q", "attn_k", "attn_v", "attn_output")
    if shape.experts:
        yield from named("ffn_gate_inp")
        for expert in range(shape.experts):
            stacks = named("ffn_gate_exps", "ffn_down_exps", "ffn_up_exps")
            yield from (stack[expert] for stack in stacks)
    else:
        yield from named("ffn_gate", "ffn_down", "ffn_up")
    if shape.head_norms:
        yield from named("attn_q_norm", "attn_k_norm")
    yield from named("attn_norm", "ffn_norm")


def _write_dllama_tokenizer(vocabulary: int, file: BinaryIO) -> None:
    # One token for each printable character and no longer piece that could join two of them:
    # a prompt of n characters is n tokens and the one that begins every text.
    words = [
        chr(i).encode() if i < 127 and chr(i).isprintable() else f"<{i:06}>".encode()
        for i in range(vocabulary)
    ]
    write_dllama_tokenizer(words, vocabulary - 2, vocabulary - 1, file)


def write_dllama_tokenizer(
    words: Sequence[bytes], begin: int, end: int, file: BinaryIO, *, adds_begin: bool = True
) -> None:
    """Write a `.t` file. begin, end: the tokens that begin and end a text; special ones start at begin."""
    pairs = [
        (0, 1),  # version
        (1, len(words)),
        (2, max(map(len, words))),
        (3, begin),
        (9, 1),  # number of tokens that end a text
        (10, int(adds_begin)),
    ]
    file.write(_dllama_header(_TOKENIZER_MAGIC, pairs))
    file.write(struct.pack("<i", end))
    for i, word in enumerate(words):
        file.write(struct.pack("<fI", -float(i), len(word)) + word)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Give a command line `--shape` and `--dir`."""
    parser.add_argument(
        "--shape", default="qwen3-0.6b", metavar="NAME",
        help=f"the model's shape: {', '.join(SHAPES)} (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, default=default_directory(), metavar="DIR",
        help="where the random models are kept (default %(default)s)",
    )  # fmt: skip


def run() -> int:
    """Write the files asked for on the command line and print their paths."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help=", ".join(SHAPES))
    parser.add_argument("--mix", choices=MIXES, default="q4_0", help="default %(default)s")
    parser.add_argument("--dllama", action="store_true", help="write the .m and .t files too")
    parser.add_argument("--dir", type=Path, default=default_directory(), help="%(default)s")
    arguments = parser.parse_args()
    print(gguf_file(arguments.name, arguments.dir, arguments.mix))
    if arguments.dllama:
        print(*dllama_files(arguments.name, arguments.dir), sep="\n")
    return 0


if __name__ == "__main__":
    main(run)
