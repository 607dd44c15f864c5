"""Find a model's architecture and read its sizes.

Knows that every file beside this one has an `ARCHITECTURE`, and what metadata every model has.
Refuses to know what is in a table.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from dure.errors import CutError, ModelError
from dure.model.architectures.base import Architecture, Shape
from dure.model.cache_shape import cache_shape_of
from dure.model.gguf import GgufFile, once_per_model

__all__ = ["ARCHITECTURES", "architecture_of", "shape_of"]

_NO_TABLES = {"base", "lookup"}


def _tables() -> Iterator[Architecture]:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name not in _NO_TABLES:
            yield import_module(f"{package}.{module.name}").ARCHITECTURE


ARCHITECTURES: Mapping[str, Architecture] = {table.name: table for table in _tables()}
"""By llama.cpp's name, `general.architecture`."""


def architecture_of(model: GgufFile) -> Architecture:
    """Return the table of a model's architecture. Raises CutError if there is none."""
    known = ARCHITECTURES.get(model.architecture)
    if known is None:
        raise CutError(
            f"architecture {model.architecture} has no table of cuts (there are: "
            f"{', '.join(ARCHITECTURES)}), so it cannot be cut",
            "run it on one rank",
        )
    return known


@once_per_model
def shape_of(model: GgufFile) -> Shape:
    """Read the sizes every model has. Raises ModelError if one is missing or impossible."""
    arch = model.architecture
    known = ARCHITECTURES.get(arch)
    n_layer = _positive(model, f"{arch}.block_count")
    n_embd = _positive(model, f"{arch}.embedding_length")
    n_head = _positive(model, f"{arch}.attention.head_count")
    n_head_kv = _positive(model, f"{arch}.attention.head_count_kv", n_head)
    if n_head % n_head_kv:
        raise ModelError(
            f"{model.paths[0].name}: {n_head} query heads do not divide over {n_head_kv} KV heads",
            "its header is damaged, get the file again",
        )
    head = _positive(model, f"{arch}.attention.key_length", n_embd // n_head)
    ffn_key = f"{arch}.{known.ffn_length_key if known else 'feed_forward_length'}"
    return Shape(
        architecture=arch,
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv,
        key_length=head,
        value_length=_positive(model, f"{arch}.attention.value_length", head),
        n_ff=_number(model, ffn_key, 0),
        n_vocab=_vocabulary(model),
        n_expert=_number(model, f"{arch}.expert_count", 0),
        n_expert_used=_number(model, f"{arch}.expert_used_count", 0),
        context_length=_positive(model, f"{arch}.context_length"),
        cache=cache_shape_of(model),
    )


def _vocabulary(model: GgufFile) -> int:
    for name in ("output.weight", "token_embd.weight"):
        if name in model.tensors and len(model.tensors[name].shape) == 2:
            return model.tensors[name].shape[1]
    raise ModelError(
        f"{model.paths[0].name}: there is no token_embd.weight",
        "this file is no language model "
        "(a LoRA adapter, a projector or a vocabulary alone?), name the model's own file",
    )


def _number(model: GgufFile, key: str, default: int | None) -> int:
    """Read a whole number, or a list that has the same number for every layer."""
    value = model.metadata.get(key)
    if value is None:
        if default is None:
            raise ModelError(
                f"{model.paths[0].name}: metadata {key} is missing", "get the file again"
            )
        return default
    if isinstance(value.value, list):
        numbers = set(value.value)
        if len(numbers) == 1 and isinstance(only := numbers.pop(), int):
            return only
        raise ModelError(
            f"{model.paths[0].name}: {key} differs from layer to layer, which dure cannot cut or "
            "measure yet",
            "use a model with the same number in every layer",
        )
    return model.int(key)


def _positive(model: GgufFile, key: str, default: int | None = None) -> int:
    number = _number(model, key, default)
    if number < 1:
        raise ModelError(
            f"{model.paths[0].name}: {key} is {number}", "its header is damaged, get the file again"
        )
    return number
