"""Measure how fast this machine computes with weights of a type, with llama.cpp itself.

    python -m dure.engine.instruments.speed Q4_0 4 ""

Writes a small model of that type whose weights do not fit into caches, decodes with it, and reports how
many bytes of weights it read in a second: what decides the time of a token. A second model of many layers
that hold next to nothing shows what a layer takes besides, and a narrow one what vectors take in a prompt.
Knows one machine. Refuses to know whose it is, and where the figure is kept.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from dure.engine.compute.llama import LoadedModel
from dure.engine.environment import with_huge_pages
from dure.engine.kv import Forget
from dure.engine.limits import Limits, OffloadedLayers
from dure.errors import EngineError
from dure.model.ggml import GgmlType, needs_importance, quantize, type_named
from dure.model.gguf import GgufWriter
from dure.model.gguf.values import TensorSpec

__all__ = ["FEW", "MEASURE_S", "PROMPT", "Speed", "measure", "measure_in_process"]

MEASURE_S = 300.0  # the longest that a measurement may take

VOCABULARY = 256
ENOUGH_BYTES = 150_000_000  # of weights: more than any cache holds, and quickly written
ROWS = 64  # that are different; the others repeat them
PROMPT, REPEATS, STEPS = 256, 3, 48
FEW = 16  # tokens at once, as each expert of a mixture has of a prompt
WARM = 32  # tokens before all others
LONG_S = 10.0  # after which nothing is repeated


class Speed(msgspec.Struct, frozen=True):
    """A machine's speed with weights of a type.

    decode_bytes_per_s: of weights, when single tokens are decoded. prompt_bytes_per_s: the same in a
    prefill of PROMPT tokens, where each token counts. layer_s: that a layer takes of a token besides
    reading weights, whatever their type. column_s: that each column of a vector takes before or after a
    matrix; the speed of reading is without both. few_bytes_per_s: as in a prefill, of FEW tokens. Each of
    the three is 0 if it was not measured. gpu: that computed, as llama.cpp names it; "": the processor.
    """

    type: str
    threads: int
    decode_bytes_per_s: float
    prompt_bytes_per_s: float
    layer_s: float = 0.0
    column_s: float = 0.0
    few_bytes_per_s: float = 0.0
    gpu: str = ""

    @property
    def weight_s(self) -> float:
        """Return the seconds of a token of a prompt for each weight: without reading it, and columns."""
        whole_s = self._bytes_of_weight / self.prompt_bytes_per_s
        read_s = self._bytes_of_weight / self.decode_bytes_per_s / PROMPT
        return max(whole_s - read_s - self._columns_s, 0.1 * whole_s)

    @property
    def few_weight_s(self) -> float | None:
        """Return the seconds of one of FEW tokens for each weight, reading too; None: not measured."""
        if not self.few_bytes_per_s:
            return None
        whole_s = self._bytes_of_weight / self.few_bytes_per_s
        return max(whole_s - self._columns_s, 0.1 * whole_s)

    @property
    def _bytes_of_weight(self) -> float:
        type_ = type_named(self.type)
        return type_.type_size / type_.block_size

    @property
    def _columns_s(self) -> float:
        """The seconds of a token's columns, for each weight of the model that was measured."""
        sizes = _Sizes.of(type_named(self.type))
        return self.column_s * sizes.columns / sizes.weights


@dataclass(frozen=True)
class _Sizes:
    """The sizes of a model that is measured."""

    type: GgmlType
    width: int
    ffn: int
    heads: int
    layers: int

    @classmethod
    def of(cls, type_: GgmlType) -> _Sizes:
        """Return those of a model whose weights no cache holds."""
        width, ffn = 2048, 8192
        layer_bytes = type_.row_bytes(4 * width * width + 3 * width * ffn)
        return cls(type_, width, ffn, 16, max(1, ENOUGH_BYTES // layer_bytes))

    @classmethod
    def narrow(cls, type_: GgmlType) -> _Sizes:
        """Return those of a model whose vectors count beside its weights."""
        return cls(type_, 256, 768, 4, 16)

    @classmethod
    def empty(cls) -> _Sizes:
        """Return those of many layers that hold next to nothing."""
        return cls(type_named("Q8_0"), 64, 128, 2, 48)

    @property
    def weights(self) -> int:
        """The weights of a layer."""
        return 4 * self.width * self.width + 3 * self.width * self.ffn

    @property
    def columns(self) -> int:
        """The columns of all vectors before and after a layer's matrices."""
        return 4 * (self.width + self.width) + 3 * (self.width + self.ffn)


def measure(type_name: str, threads: int, gpu: str = "") -> Speed:
    """Measure this machine's speed with weights of a type, or a GPU's.

    Raises ModelError for an unknown type.
    """
    sizes, empty = _Sizes.of(type_named(type_name)), _Sizes.empty()
    narrow = _Sizes.narrow(sizes.type)
    layer_s = _measured(empty, threads, gpu).decode_s / empty.layers
    found = _measured(sizes, threads, gpu)
    large_s = (found.prompt_s - found.decode_s) / sizes.layers
    small_s = _measured(narrow, threads, gpu).prompt_s / narrow.layers - layer_s
    column_s = _column_s(sizes, large_s / PROMPT, narrow, small_s / PROMPT)
    read_s = found.decode_s - sizes.layers * (layer_s + sizes.columns * column_s)
    return Speed(
        type_name,
        threads,
        found.model_bytes / max(read_s, found.decode_s / 2),
        PROMPT * found.model_bytes / found.prompt_s,
        layer_s,
        column_s,
        FEW * found.model_bytes / max(found.few_s - sizes.layers * layer_s, found.few_s / 2),
        gpu,
    )


def _column_s(large: _Sizes, large_s: float, small: _Sizes, small_s: float) -> float:
    """Return the seconds of a column from those of a layer's token in two models: weights and columns."""
    part = small.weights / large.weights
    return max(0.0, (small_s - part * large_s) / (small.columns - part * large.columns))


def measure_in_process(type_name: str, threads: int, gpu: str = "") -> Speed:
    """Measure this machine's speed in a process of its own, or a GPU's. Raises EngineError.

    The caller's memory stays as it is, and the model gets the huge pages that a rank has.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dure.engine.instruments.speed", type_name, str(threads), gpu],
            capture_output=True,
            env=with_huge_pages(os.environ),
            timeout=MEASURE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"the speed with {type_name} was not measured within {MEASURE_S:g} s",
            "try again when the machine has less to do",
        ) from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason"]
        raise EngineError(f"the speed with {type_name} cannot be measured: {last[0]}")
    return msgspec.json.decode(done.stdout, type=Speed)


class _Times(NamedTuple):
    """The median seconds of a prompt, of a few tokens, and of a single one."""

    model_bytes: int
    prompt_s: float
    few_s: float
    decode_s: float


def _measured(sizes: _Sizes, threads: int, gpu: str) -> _Times:
    with tempfile.TemporaryDirectory(prefix="dure-speed-") as directory:
        path = Path(directory) / "model.gguf"
        _write(path, sizes)
        there = OffloadedLayers(gpu, sizes.layers + 1) if gpu else OffloadedLayers()
        limits = Limits(n_ctx=PROMPT, threads=threads, n_batch=PROMPT, n_outputs=PROMPT, gpu=there)
        model = LoadedModel(path, limits)
        try:
            return _times(model)
        finally:
            model.close()


def _times(model: LoadedModel) -> _Times:
    """Measure each from an empty context, as a longer one takes time of its own."""
    _decode(model, 0, WARM)
    model.kv.change([Forget(0)])
    tokens = list(_repeated(STEPS, lambda n: _decode(model, n, 1)))

    def prompt_s(n: int) -> float:
        model.kv.change([Forget(0)])
        return _decode(model, 0, n)

    prompts = list(_repeated(REPEATS, lambda _: prompt_s(PROMPT)))
    few = list(_repeated(REPEATS, lambda _: prompt_s(FEW)))
    return _Times(model.weights_bytes, *map(statistics.median, (prompts, few, tokens)))


def _repeated(times: int, measured: Callable[[int], float]) -> Iterator[float]:
    """Yield what is measured, so many times or until it has taken long enough."""
    taken_s = 0.0
    for n in range(times):
        if taken_s > LONG_S:
            return
        yield (one_s := measured(n))
        taken_s += one_s


def _decode(model: LoadedModel, start: int, n: int) -> float:
    """Return the seconds of n tokens, all with logits: of others the last layer is left out."""
    positions = np.arange(start, start + n, dtype=np.int32)
    begun = time.perf_counter()
    model.decode(positions % VOCABULARY, positions, np.zeros(n, np.int32), range(n))
    return time.perf_counter() - begun


def _write(path: Path, sizes: _Sizes) -> None:
    type_ = sizes.type
    metadata: dict[str, bool | int | float | str] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "no_vocab",
        "llama.vocab_size": VOCABULARY,
        "llama.block_count": sizes.layers,
        "llama.context_length": 4096,
        "llama.embedding_length": sizes.width,
        "llama.feed_forward_length": sizes.ffn,
        "llama.attention.head_count": sizes.heads,
        "llama.attention.head_count_kv": sizes.heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.rope.dimension_count": sizes.width // sizes.heads,
    }
    specs = list(_tensors(sizes))
    rows: dict[int, np.ndarray[tuple[int, int], np.dtype[np.uint8]]] = {}
    with GgufWriter(path, metadata, specs) as writer:
        for spec in specs:
            if len(spec.shape) == 1:
                writer.write(np.ones(spec.shape[0], np.float32).view(np.uint8))
                continue
            n_columns, n_rows = spec.shape
            if n_columns not in rows:
                random = np.random.default_rng(n_columns).normal(0, 0.02, (ROWS, n_columns))
                even = np.ones(n_columns, np.float32) if needs_importance(type_) else None
                rows[n_columns] = quantize(random.astype(np.float32), type_, even)
            for _ in range(n_rows // ROWS):
                writer.write(rows[n_columns])


def _tensors(sizes: _Sizes) -> list[TensorSpec]:
    float32, type_, width = type_named("F32"), sizes.type, sizes.width
    square, wide, narrow = (width, width), (width, sizes.ffn), (sizes.ffn, width)
    block = {
        "attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square,
        "ffn_gate": wide, "ffn_up": wide, "ffn_down": narrow,
    }  # fmt: skip
    specs = [TensorSpec("token_embd.weight", (width, VOCABULARY), type_)]
    specs.append(TensorSpec("output_norm.weight", (width,), float32))
    for layer in range(sizes.layers):
        specs += [TensorSpec(f"blk.{layer}.{n}.weight", s, type_) for n, s in block.items()]
        norms = ("attn_norm", "ffn_norm")
        specs += [TensorSpec(f"blk.{layer}.{n}.weight", (width,), float32) for n in norms]
    return specs


def main() -> None:
    """Measure the type, threads and GPU of the command line; the figures go to stdout as JSON."""
    type_name, threads, gpu = sys.argv[1:]
    sys.stdout.write(msgspec.json.encode(measure(type_name, int(threads), gpu)).decode() + "\n")


if __name__ == "__main__":
    main()
