"""The adapters (LoRA) of one context of llama.cpp: loaded from files, and switched between steps.

Knows llama.cpp's calls, and that what an adapter adds to a partial vector belongs to its sum.
Refuses to know which adapters a request wants.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.engine.compute.native import library
from dure.errors import EngineError, ModelError
from dure.model.gguf import open_gguf
from dure.model.llama_log import captured_log

__all__ = ["ContextAdapters"]

_SUFFIX = ".lora_a"


@dataclass(frozen=True)
class _Loaded:
    """An adapter. weights: the names of those that it changes."""

    pointer: Any
    weights: tuple[str, ...]


class ContextAdapters:
    """Adapters of one model, used by one context. llama.cpp frees them with the model."""

    def __init__(self, model: Any, context: Any) -> None:
        self._model, self._context = model, context
        self._loaded: dict[int, _Loaded] = {}
        self._used = NO_ADAPTERS

    def load(self, number: int, path: Path) -> None:
        """Load an adapter under a number, in place of one that has it. Raises ModelError."""
        with open_gguf(path) as file:
            names = [name for name in file.tensors if name.endswith(_SUFFIX)]
        pointer = lib.llama_adapter_lora_init(self._model, str(path).encode())
        if not pointer:
            reasons = [line for line in captured_log() if "lora" in line.lower()]
            reason = reasons[-1].split(": ", 1)[-1].strip() if reasons else "it gives no reason"
            raise ModelError(
                f"llama.cpp cannot load the adapter {path.name}: {reason}",
                "make it again, for this model",
            )
        self.drop(number)
        weights = tuple(name.removesuffix(_SUFFIX) for name in names)
        self._loaded[number] = _Loaded(pointer, weights)

    def drop(self, number: int) -> None:
        """Free an adapter, if there is one of this number."""
        self.use(NO_ADAPTERS)
        if (before := self._loaded.pop(number, None)) is not None:
            lib.llama_adapter_lora_free(before.pointer)

    def use(self, adapters: AdapterSet) -> None:
        """Compute the next steps with these adapters. Costs some time if they are others than before.

        llama.cpp keeps them in a hash table of pointers: the order in which it adds up three or more, and
        so the last bits, may differ from process to process.
        """
        if adapters == self._used:
            return
        loaded = [self._loaded[number] for number, _ in adapters]
        weights = sorted(weight for one in loaded for weight in one.weights)
        if library().dure_allreduce_adapters("".join(f"{w}\n" for w in weights).encode()):
            raise EngineError("there is no memory for the names of an adapter's weights")
        n = len(adapters)
        pointers = (lib.llama_adapter_lora_p_ctypes * n)(*(one.pointer for one in loaded))
        scales = (ctypes.c_float * n)(*(scale for _, scale in adapters))
        lib.llama_set_adapters_lora(self._context, pointers, n, scales)
        self._used = adapters
