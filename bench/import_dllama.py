"""Distributed Llama and dure write the same greedy text, there from `.m` and `.t`, here from their import.

The demo model, and random ones of Llama's and Qwen3-MoE's shape with its vocabulary, are written in
Distributed Llama's files, imported, and run by both: float32 weights, where only the order of sums differs,
and Q4_0, where Distributed Llama also rounds what each layer adds to 8 bits (it runs mixtures only so).

Distributed Llama goes on from what its buffer holds behind a prompt's last token, which is that token only
if the last pair that it joined is not at the prompt's end: other prompts are left out.

    DURE_DLLAMA=/path/to/dllama python bench/import_dllama.py
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from contenders import dllama_program
from measure import BenchError, main, progress
from shapes import Shape, write_dllama_model, write_dllama_tokenizer, write_gguf

import dure
from dure.convert.adapters import gguf_model
from dure.convert.distributed_llama import read_pair
from dure.convert.model import Bytes, ConvertedModel, TensorSource, write_model
from dure.model.ggml import GgmlType, dequantize, quantize, type_named
from dure.model.gguf import TensorSpec, open_gguf
from dure.model.vocabulary import Vocabulary

DEMO = Path(__file__).parents[1] / "models" / "dure-demo.gguf"
SIZES = (4, 256, 768, 8, 4, 32, 2048, 10_000)
SHAPES = {
    "demo": Shape("qwen3", *SIZES, 6, tied=True),
    "llama": Shape("llama", *SIZES, 5, tied=False),
    "qwen3moe": Shape(
        "qwen3moe", *SIZES, 6, tied=False, experts=8, experts_used=2, expert_feed_forward=256
    ),
}
CASES = [("demo", "F32"), ("llama", "F32"), ("demo", "Q4_0"), ("qwen3moe", "Q4_0")]
ROUGH = {"qwen3moe": 40}
"""Characters that must be the same where roundings to 8 bits lead random weights to other experts."""

PROMPTS = (
    "Once upon a time there was a",
    "The old farmer asked the goat where",
    "In the village, the",
)
_PIECE = re.compile(r"🔶 Pred[^|]*\|[^|]*\| (.*?)\n(?=🔶|\n)", re.DOTALL)
_FIRST_PAIR = 256  # ids below are single bytes


@dataclass(frozen=True)
class Outcome:
    """One prompt's two texts."""

    model: str
    type: str
    prompt: str
    dllama: str
    dure: str

    @property
    def common(self) -> int:
        """Return how many characters both have in common from the start."""
        pairs = zip(self.dllama, self.dure, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    @property
    def same(self) -> bool:
        """Return whether both wrote the same, up to where the first of them ended."""
        return self.common == min(len(self.dllama), len(self.dure)) > 0

    @property
    def met(self) -> bool:
        """Return whether the texts are as much alike as they must be."""
        return self.same or (self.model in ROUGH and self.common >= ROUGH[self.model])


def retyped(source: Path, name: str, path: Path, *, is_random: bool) -> None:
    """Write a GGUF with its matrices in another type, or with random ones of their shapes."""
    type_ = type_named(name)
    with gguf_model(source) as model:
        tensors = [
            _retyped(one, type_, is_random=is_random) if len(one.spec.shape) > 1 else one
            for one in model.tensors
        ]
        write_model(ConvertedModel(model.metadata, tensors), path)


def _retyped(tensor: TensorSource, type_: GgmlType, *, is_random: bool) -> TensorSource:
    if tensor.spec.name.endswith("ffn_gate_inp.weight"):
        return tensor
    spec = TensorSpec(tensor.spec.name, tensor.spec.shape, type_)

    def chunks() -> Iterator[Bytes]:
        floats = (_random(spec) if is_random else _floats(tensor)).reshape(spec.n_rows, -1)
        yield floats.view(np.uint8) if type_.name == "F32" else quantize(floats, type_).ravel()

    return TensorSource(spec, chunks)


def _floats(tensor: TensorSource) -> npt.NDArray[np.float32]:
    data = np.concatenate([chunk.ravel() for chunk in tensor.chunks()])
    return dequantize(data, tensor.spec.type, tensor.spec.n_elements)


def _random(spec: TensorSpec) -> npt.NDArray[np.float32]:
    """Return weights with which a model writes varied text, always the same ones."""
    random = np.random.default_rng(zlib.crc32(spec.name.encode()))
    gain = {"token_embd.weight": spec.shape[0] ** 0.5, "output.weight": 2.0}.get(spec.name, 1.5)
    return random.standard_normal(spec.n_elements, np.float32) * np.float32(
        gain * spec.shape[0] ** -0.5
    )


def write_pair(name: str, kind: str, folder: Path) -> tuple[Path, Path]:
    """Write a model in Distributed Llama's files, and import them. Returns `.m` and GGUF."""
    source, random = folder / f"{name}-{kind}.gguf", folder / f"{name}.gguf"
    if name != "demo" and not random.exists():
        write_gguf(SHAPES[name], "q4_0", random)
    is_random = name != "demo"
    retyped(random if is_random else DEMO, kind, source, is_random=is_random)
    model = source.with_suffix(".m")
    with model.open("wb") as file:
        write_dllama_model(SHAPES[name], source, file, kind)
    with vocabulary_of(DEMO) as words, model.with_suffix(".t").open("wb") as file:
        pieces = [words.piece(token, special=True) for token in range(words.n_tokens)]
        begin = pieces.index(words.bos_text.encode())
        end = pieces.index(words.eos_text.encode())
        write_dllama_tokenizer(pieces, begin, end, file, adds_begin=False)
    imported = folder / f"{name}-{kind}-imported.gguf"
    write_model(read_pair(model, model.with_suffix(".t")), imported)
    return model, imported


@contextmanager
def vocabulary_of(path: Path) -> Iterator[Vocabulary]:
    """Open a model's tokenizer."""
    with open_gguf(path) as file:
        vocabulary = Vocabulary(file)
    try:
        yield vocabulary
    finally:
        vocabulary.close()


def control_tokens(path: Path) -> list[str]:
    """Return the words of the tokens that dure does not show in an answer."""
    with vocabulary_of(path) as words:
        hidden = [token for token in range(words.n_tokens) if not words.piece(token)]
        return [words.piece(token, special=True).decode() for token in hidden]


def verdict(outcome: Outcome) -> str:
    """Return how much alike both texts are, in words."""
    return "the same" if outcome.same else f"the first {outcome.common} characters are the same"


def fit(prompts: Sequence[str], imported: Path) -> list[tuple[str, int]]:
    """Return the prompts that Distributed Llama continues from their end, with their tokens' number."""
    found = []
    with vocabulary_of(imported) as words:
        for prompt in prompts:
            tokens = words.tokenize(prompt, special=True)
            if max(tokens) >= _FIRST_PAIR and tokens[-1] < max(tokens):
                found.append((prompt, len(tokens)))
    return found


def dllama_text(model: Path, kind: str, prompt: str, steps: int) -> str:
    """Return Distributed Llama's greedy continuation, special tokens too. Raises BenchError if it fails."""
    buffers = "f32" if kind == "F32" else "q80"
    command = [
        *(dllama_program(), "inference", "--model", str(model)),
        *("--tokenizer", str(model.with_suffix(".t")), "--prompt", prompt),
        *("--steps", str(steps), "--temperature", "0", "--nthreads", "1"),
        *("--buffer-float-type", buffers, "--max-seq-len", "512"),
    ]
    done = subprocess.run(command, capture_output=True, timeout=600, check=False)
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise BenchError(
            f"dllama failed: {text[-300:]} {done.stderr.decode(errors='replace')[-300:]}"
        )
    return "".join(_PIECE.findall(text)).replace("~", "")


def compared(name: str, kind: str, folder: Path, n_tokens: int) -> Iterator[Outcome]:
    """Run both programs on every prompt that fits."""
    model, imported = write_pair(name, kind, folder)
    prompts = fit(PROMPTS, imported)
    marks = control_tokens(imported)
    with dure.open(imported) as ours:
        for prompt, n in prompts:
            theirs = dllama_text(model, kind, prompt, n - 1 + n_tokens)
            for mark in marks:
                theirs = theirs.replace(mark, "")
            text = ours.generate(prompt, max_tokens=n_tokens, temperature=0).text
            outcome = Outcome(name, kind, prompt, theirs, text)
            progress(f"{name} {kind}, {prompt!r}: {verdict(outcome)}")
            yield outcome


def run() -> int:
    """Compare all cases, and return 0 if all texts are as much alike as they must be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=40, help="of each text (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        each = partial(compared, folder=Path(folder), n_tokens=arguments.tokens)
        outcomes = [outcome for name, kind in CASES for outcome in each(name, kind)]
    if arguments.json:
        facts = [asdict(one) | {"common": one.common, "met": one.met} for one in outcomes]
        json.dump(facts, sys.stdout, indent=1)
    for one in outcomes if not arguments.json else ():
        print(f"{one.model} {one.type}: {verdict(one)}  {one.prompt!r}")
        print(f"  dllama  {one.dllama!r}\n  dure    {one.dure!r}")
    return 0 if all(one.met for one in outcomes) else 1


if __name__ == "__main__":
    main(run)
