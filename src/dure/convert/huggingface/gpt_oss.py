"""gpt-oss's weights: experts in MXFP4 or in floats, gate and up rows interleaved, sinks without an ending.

Refuses to know its metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from dure.convert.huggingface.config import Config
from dure.convert.huggingface.rows import Mxfp4Rows, PickedRows, Rows, TensorRows, TransposedRows
from dure.convert.huggingface.safetensors_file import StoredTensor
from dure.convert.huggingface.weights import Weights, plain_weights
from dure.errors import ModelError
from dure.model.gguf.values import one_line

__all__ = ["gpt_oss_weights"]

Tensors = Mapping[str, StoredTensor]
_HALVES = ("gate_proj", "up_proj")


def gpt_oss_weights(tensors: Tensors, config: Config) -> Mapping[str, Weights]:
    """Return the weights by the names that other mixtures have. Raises ModelError for other shapes."""
    sizes = config.whole("hidden_size"), config.whole("intermediate_size")
    rest = {name: one for name, one in tensors.items() if ".experts." not in name}
    weights = {
        f"{name}.weight" if name.endswith(".sinks") else name: one
        for name, one in plain_weights(rest, config).items()
    }
    for name, tensor in tensors.items():
        if ".experts." in name:
            weights.update(_experts(name, tensor, tensors, *sizes))
    return weights


def _experts(
    name: str, tensor: StoredTensor, tensors: Tensors, n_embd: int, n_ff: int
) -> Iterator[tuple[str, Weights]]:
    """Yield what one of the tensors of a layer's experts holds."""
    stem, _, last = name.rpartition(".")
    if last.endswith("_scales"):
        return  # belongs to its blocks
    part, _, kind = last.partition("_proj")
    n = tensor.shape[0] if tensor.shape else 0
    height, width = (2 * n_ff, n_embd) if part == "gate_up" else (n_embd, n_ff)
    rows, ending = _rows(name, tensor, tensors, kind, (height, width))
    shape = (n_ff if part == "gate_up" else n_embd,) + ((width,) if ending == "weight" else ())
    if part != "gate_up":
        yield f"{stem}.down_proj.{ending}", Weights((n, *shape), rows)
        return
    for first, half in enumerate(_HALVES):
        picked = PickedRows(rows, np.arange(first, n * height, 2))
        yield f"{stem}.{half}.{ending}", Weights((n, *shape), picked)


def _rows(
    name: str, tensor: StoredTensor, tensors: Tensors, kind: str, matrix: tuple[int, int]
) -> tuple[Rows, str]:
    """Return a row of the experts' matrices for each of their outputs, and the ending of the name."""
    height, width = matrix
    if kind == "_blocks":
        scales = tensors.get(name.removesuffix("_blocks") + "_scales")
        if scales is None:
            raise ModelError(f"{one_line(name)} has no scales", "get the model again")
        rows: Rows = Mxfp4Rows(tensor, scales)
        if scales.shape[1:] == (height, width // 32) and width % 32 == 0:
            return rows, "weight"
    elif kind == "_bias" and tensor.shape[1:] == (height,):
        return TensorRows(tensor, flat=True), "bias"
    elif kind == "" and tensor.shape[1:] == (width, height):
        return TransposedRows(TensorRows(tensor), width), "weight"
    raise ModelError(
        f"{one_line(name)} has the shape {tensor.shape}, which is not that of {height} x {width} experts",
        "get the model again",
    )
