"""A Hugging Face folder as a model to be written: its configuration, weights and tokenizer together.

Knows which type each tensor gets. Refuses to know how the file is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dure.convert.huggingface.checkpoint import Checkpoint
from dure.convert.huggingface.completeness import BLOCK, check_complete
from dure.convert.huggingface.config import Config
from dure.convert.huggingface.families import FAMILIES, Family, head_dim
from dure.convert.huggingface.generation import sampling_keys
from dure.convert.huggingface.rope import Rope, rope_of
from dure.convert.huggingface.rows import chunks
from dure.convert.huggingface.tokenizer import tokenizer_keys
from dure.convert.huggingface.weights import Weights, text_tensors
from dure.convert.model import Bytes, ConvertedModel, Metadata, TensorSource
from dure.errors import ModelError
from dure.model.ggml import GgmlType, type_named
from dure.model.gguf import TensorSpec
from dure.model.gguf.values import one_line

__all__ = ["FILE_TYPES", "convert_folder", "is_folder", "name_of"]

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32, "MXFP4": 38}
"""`general.file_type` by the type of most bytes. Source: llama.cpp `llama.h`, `llama_ftype`."""

_SNAPSHOT = re.compile(r".*/models--[^/]+--(?P<name>[^/]+)/snapshots/[^/]+")
_MOST_LAYERS = 512
_PRECISE = ("_norm.weight", "ffn_gate_inp.weight", "attn_sinks.weight")


def is_folder(path: Path) -> bool:
    """Whether this is a folder that transformers, or a writer like it, saved."""
    return path.is_dir() and (path / "config.json").exists()


def name_of(folder: Path) -> str:
    """Return what to call the model of a folder: its repository if it lies in Hugging Face's cache."""
    path = folder.resolve()
    cached = _SNAPSHOT.fullmatch(str(path))
    return cached["name"] if cached else path.name


@contextmanager
def convert_folder(
    folder: Path, type_: GgmlType | None, vocabulary: Metadata | None = None
) -> Iterator[ConvertedModel]:
    """Open a folder as a model to be written. type_: of the matrices; None keeps what the folder has.

    vocabulary: all metadata of tokens and sampling, None for the folder's own.
    Raises ModelError if it is damaged, incomplete, or of a kind that llama.cpp does not compute.
    """
    config = Config.read(folder)
    family = _family(config)
    config = config.over(family.defaults)
    family.check(config)
    checkpoint = Checkpoint(folder)
    try:
        rope = rope_of(config, head_dim(config))
        tensors = [
            _source(name, weights, type_)
            for name, weights in _named(family, config, checkpoint).items()
        ]
        if rope.factors is not None:
            tensors.append(_factors(rope))
        check_complete({one.spec.name: one.spec.shape for one in tensors}, config)
        if vocabulary is None:
            vocabulary = {
                **tokenizer_keys(folder, config, config.whole("vocab_size")),
                **sampling_keys(folder),
            }
        metadata = {**_keys(folder, family, config, rope, tensors), **vocabulary}
        yield ConvertedModel(metadata, tensors)
    finally:
        checkpoint.close()


def _family(config: Config) -> Family:
    named = config.listed("architectures")
    known = [FAMILIES[one] for one in named if isinstance(one, str) and one in FAMILIES]
    if not known:
        config.fail(
            f"architectures is {one_line(repr(named))}", f"dure imports {', '.join(FAMILIES)}"
        )
    return known[0]


def _named(family: Family, config: Config, checkpoint: Checkpoint) -> dict[str, Weights]:
    """Return the weights by llama.cpp's names, the embeddings first, then block by block."""
    import gguf

    if (n_layer := config.whole("num_hidden_layers")) > _MOST_LAYERS:
        config.fail(f"num_hidden_layers is {n_layer}, more than {_MOST_LAYERS}")
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[family.architecture], n_layer)
    found: dict[str, Weights] = {}
    for theirs, weights in family.weights(text_tensors(checkpoint.tensors), config).items():
        if theirs == "lm_head.weight" and config.flag("tie_word_embeddings", default=False):
            continue
        ours = names.get_name(theirs, (".weight", ".bias"))
        if ours is None:
            raise ModelError(
                f"tensor {one_line(theirs)} is none that llama.cpp knows of {family.architecture}",
                "name the folder of an unchanged model",
            )
        found[ours] = weights
    return dict(sorted(found.items(), key=lambda item: _place(item[0])))


def _place(name: str) -> tuple[int, str]:
    block = BLOCK.fullmatch(name)
    return (int(block["number"]), block["rest"]) if block else (-1, name)


def _source(name: str, weights: Weights, wanted: GgmlType | None) -> TensorSource:
    type_ = _type_of(name, weights, wanted)
    spec = TensorSpec(name, tuple(reversed(weights.shape)), type_)
    spec.check()
    return TensorSource(spec, partial(chunks, weights.rows, type_, f"tensor {one_line(name)}"))


def _type_of(name: str, weights: Weights, wanted: GgmlType | None) -> GgmlType:
    """Return the type that a tensor gets: F32 for small ones, as llama.cpp's converter does."""
    rows = weights.rows
    if rows.type.name == "MXFP4":
        return rows.type
    if len(weights.shape) == 1 or name.endswith(_PRECISE) or not name.endswith(".weight"):
        return type_named("F32")
    if wanted is None:
        return rows.kept
    return wanted if weights.shape[-1] % wanted.block_size == 0 else type_named("F16")


def _factors(rope: Rope) -> TensorSource:
    assert rope.factors is not None
    data: Bytes = rope.factors.view("u1")
    spec = TensorSpec("rope_freqs.weight", (len(rope.factors),), type_named("F32"))
    return TensorSource(spec, lambda: iter([data]))


def _keys(
    folder: Path, family: Family, config: Config, rope: Rope, tensors: list[TensorSource]
) -> Metadata:
    sizes: Counter[str] = Counter()
    for one in tensors:
        sizes[one.spec.type.name] += one.spec.size_bytes
    heads, n_embd = config.whole("num_attention_heads"), config.whole("hidden_size")
    own = {
        "block_count": config.whole("num_hidden_layers"),
        "context_length": config.whole("max_position_embeddings"),
        "embedding_length": n_embd,
        "feed_forward_length": config.whole("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": config.whole("num_key_value_heads", default=heads),
        "attention.key_length": head_dim(config),
        "attention.value_length": head_dim(config),
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", default=1e-6),
        **rope.metadata,
        **family.more(config),
    }
    return {
        "general.architecture": family.architecture,
        "general.type": "model",
        "general.name": name_of(folder),
        "general.file_type": FILE_TYPES[max(sizes, key=sizes.__getitem__)],
        "general.quantization_version": 2,
        **{f"{family.architecture}.{key}": value for key, value in own.items()},
    }
