"""What running a model asks of machines, as a value: no file is open any more.

Knows what a token reads, sends and keeps. Refuses to know machines, and who gets which part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dure.model.architectures import shape_of
from dure.model.ggml import WRITABLE_TYPES
from dure.model.gguf import GgufFile, bytes_by_type
from dure.plan.memory import DEFAULT_CTX, memory_of

__all__ = ["ModelLoad", "load_of", "main_type", "main_type_of", "read_types"]

_WORTH = 0.05  # of all bytes: a type with fewer does not decide a speed
_LIKE_MOST = "Q4_K"  # stands for a type that cannot be written to measure it


@dataclass(frozen=True)
class ModelLoad:
    """A model with its KV cache, whole.

    weights_bytes: read for each token. kv_bytes: of the KV cache of all sequences.
    n_allreduces: over all ranks, in a token. allreduce_bytes: that each rank sends to each other one in
    an all-reduce. main_type: of most weights, or one like it that a machine's speed can be measured with.
    """

    weights_bytes: float
    kv_bytes: float
    n_allreduces: int
    allreduce_bytes: float
    main_type: str = _LIKE_MOST

    @property
    def n_layers(self) -> int:
        """Return the layers: each has two all-reduces."""
        return self.n_allreduces // 2


def load_of(
    model: GgufFile, *, n_ctx: int | None, n_sequences: int, value_bytes: float
) -> ModelLoad:
    """Return the load of a model with n_sequences contexts of n_ctx; None: the default context.

    value_bytes: of a number on the wire, `Wire.value_bytes`. Raises ModelError if a size is missing.
    """
    shape = shape_of(model)
    n_ctx = n_ctx or min(DEFAULT_CTX, shape.context_length)
    by_type = bytes_by_type(model.tensors.values())
    return ModelLoad(
        weights_bytes=sum(by_type.values()),
        kv_bytes=memory_of(0, shape.cache).kv_bytes(n_ctx, n_sequences),
        n_allreduces=2 * shape.n_layer,
        allreduce_bytes=shape.n_embd * value_bytes,
        main_type=main_type(by_type),
    )


def main_type(by_type: Mapping[str, int]) -> str:
    """Return the type of most bytes, or one like it that can be written to measure it."""
    name = max(by_type, key=lambda name: by_type[name])
    return name if name in WRITABLE_TYPES else _LIKE_MOST


def main_type_of(model: GgufFile) -> str:
    """Return the same of a model's tensors."""
    return main_type(bytes_by_type(model.tensors.values()))


def read_types(model: GgufFile) -> list[str]:
    """Return the types that decide how fast a model is, `main_type_of` first, that can be measured."""
    by_type = bytes_by_type(model.tensors.values())
    least, first = _WORTH * sum(by_type.values()), main_type(by_type)
    others = [n for n, n_bytes in by_type.items() if n_bytes >= least and n in WRITABLE_TYPES]
    return [first, *sorted(set(others) - {first})]
