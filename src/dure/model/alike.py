"""Tensors that differ by their layer alone, counted: what adds up sizes need not look at each of them."""

from __future__ import annotations

from dure.model.gguf import GgufFile, Tensor, once_per_model

__all__ = ["alike_tensors", "is_in_layer", "name_in_layer"]


def name_in_layer(name: str) -> str:
    """Return a tensor's name without the `blk.N.` of a layer; "" if it is in none."""
    block, _, rest = name.partition(".")
    layer, _, own = rest.partition(".")
    return own if block == "blk" and layer.isdecimal() else ""


def is_in_layer(tensor: Tensor) -> bool:
    """Return whether a tensor belongs to a layer."""
    return bool(name_in_layer(tensor.name))


@once_per_model
def alike_tensors(model: GgufFile) -> tuple[tuple[Tensor, int], ...]:
    """Return each tensor that is like no earlier one, and how many there are of it.

    Alike are those of the same name in all layers, of one shape and type; outside of layers none is.
    """
    found: dict[object, tuple[Tensor, int]] = {}
    for tensor in model.tensors.values():
        key = (name_in_layer(tensor.name) or tensor.name, tensor.shape, tensor.type)
        first, n = found.get(key, (tensor, 0))
        found[key] = first, n + 1
    return tuple(found.values())
