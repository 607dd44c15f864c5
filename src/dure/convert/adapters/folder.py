"""A folder that peft saved, as changes of the tensors of its model.

Knows peft's names, and which tensor of llama.cpp each of them is. Refuses to know what is made of them.
Source: peft 0.21 `save_and_load.py`, `tuners/lora/layer.py`; llama.cpp `convert_lora_to_gguf.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dure.convert.adapters.base import Base
from dure.convert.adapters.config import AdapterConfig
from dure.convert.adapters.lora import Change
from dure.convert.adapters.modules import ModulePair, changes_of
from dure.convert.huggingface.safetensors_file import SafetensorsFile, StoredTensor
from dure.errors import ModelError
from dure.model.gguf.values import one_line

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(
    r"(base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])"
    r"(\.weight|\.default\.weight)?"
)
_COPY = re.compile(r"(.+\.)?(embed_tokens|lm_head)\.base_layer\.weight")
"""What peft saves of the model itself beside LoRA on its embedding or output."""


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. changes: in the order of the model's tensors."""

    name: str
    base_name: str
    changes: Sequence[Change]


def is_adapter(path: Path) -> bool:
    """Whether this is a folder that peft saved."""
    return path.is_dir() and (path / _CONFIG).exists()


@contextmanager
def opened_adapter(folder: Path, base: Base) -> Iterator[Adapter]:
    """Open an adapter of this base. Raises ModelError if it is damaged, of another base, or not LoRA."""
    config = AdapterConfig(folder)
    file = SafetensorsFile(_weights(folder))
    try:
        changes = _by_target(changes_of(_pairs(file.tensors), base, config))
        if not changes:
            raise ModelError(
                f"{_WEIGHTS} of {one_line(folder.name)} is empty", "get the adapter again"
            )
        in_order = [changes[name] for name in base.tensors if name in changes]
        yield Adapter(folder.resolve().name, config.base_name, in_order)
    finally:
        file.close()


def _by_target(changes: Iterable[Change]) -> dict[str, Change]:
    found: dict[str, Change] = {}
    for change in changes:
        if found.setdefault(change.target.name, change) is not change:
            raise ModelError(
                f"the adapter changes {one_line(change.target.name)} twice", "get the adapter again"
            )
    return found


def _weights(folder: Path) -> Path:
    path = folder / _WEIGHTS
    if not path.exists() and path.with_suffix(".bin").exists():
        raise ModelError(
            f"{one_line(folder.name)} has its weights in a pickle, which can run any program when it is "
            "opened",
            "get the adapter in safetensors, or have peft's `save_pretrained` write it anew",
        )
    return path


def _pairs(tensors: Mapping[str, StoredTensor]) -> Iterator[ModulePair]:
    """Yield each module's two factors. Raises ModelError for a tensor that is not LoRA's, or alone."""
    found: dict[tuple[str, bool], dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        if _COPY.fullmatch(name):
            continue
        key = _KEY.fullmatch(name)
        if key is None:
            raise ModelError(
                f"the adapter has the tensor {one_line(name)}, which is not LoRA's A or B",
                "merge it with peft's `merge_and_unload`, and import the merged model",
            )
        module = (key["module"], bool(key["embedding"]))
        found.setdefault(module, {})[key["side"]] = tensor
    for (name, is_embedding), sides in found.items():
        if len(sides) < 2:
            raise ModelError(
                f"the adapter has only {next(iter(sides))} of {one_line(name)}",
                "get the adapter again",
            )
        yield ModulePair(name, is_embedding, sides["A"], sides["B"])
