"""From a checkpoint's tensors to weights with the names and shapes that llama.cpp has them by.

Knows what all architectures have in common: 8-bit floats, experts saved one by one or fused, models
within others. Refuses to know single architectures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dure.convert.huggingface.config import Config
from dure.convert.huggingface.rows import (
    Float8Rows,
    PickedRows,
    Rows,
    StackedRows,
    TensorRows,
    TransposedRows,
)
from dure.convert.huggingface.safetensors_file import StoredTensor
from dure.errors import ModelError
from dure.model.gguf.values import one_line

__all__ = ["Weights", "fused_experts", "plain_weights", "text_tensors"]

_NO_WEIGHTS = (".rotary_emb.inv_freq", ".masked_bias", ".activation_scale", ".input_scale")
_OTHER_SENSES = ("vision_tower.", "multi_modal_projector.", "visual.", "audio_tower.")
_SCALES = re.compile(r"(?P<name>.+)_scale_inv")
_EXPERT = re.compile(r"(?P<layer>.+\.experts)\.(?P<number>\d{1,6})\.(?P<rest>\w+_proj\.weight)")
_METHODS = ("fp8", "mxfp4")


@dataclass(frozen=True)
class Weights:
    """A tensor as it will be: shape as torch writes it, the row length last."""

    shape: tuple[int, ...]
    rows: Rows


def text_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors of the text model, by the names that they have in a model of its own."""
    found: dict[str, StoredTensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("model.") if _is_within(full) else full
        name = name.removeprefix("language_model.")
        if name.startswith(_OTHER_SENSES) or name.endswith(_NO_WEIGHTS):
            continue
        if name != full and not name.startswith(("model.", "lm_head.")):
            name = f"model.{name}"
        found[name] = tensor
    return found


def _is_within(name: str) -> bool:
    return name.startswith(("model.language_model.", *(f"model.{one}" for one in _OTHER_SENSES)))


def plain_weights(tensors: Mapping[str, StoredTensor], config: Config) -> dict[str, Weights]:
    """Return floats as they are, 8-bit floats with their scales, and experts stacked by layer.

    Raises ModelError if something that belongs to a tensor is missing.
    """
    block = _block(config)
    weights: dict[str, Weights] = {}
    for name, tensor in tensors.items():
        if scaled := _SCALES.fullmatch(name):
            if scaled["name"] not in tensors:
                raise ModelError(
                    f"{one_line(name)} scales a tensor that is not there", "get it again"
                )
        elif tensor.type == "F8_E4M3":
            scales = tensors.get(f"{name}_scale_inv")
            if scales is None or len(tensor.shape) < 2:
                raise ModelError(
                    f"tensor {one_line(name)} has 8-bit floats without block scales",
                    "get the model in BF16",
                )
            weights[name] = Weights(tensor.shape, Float8Rows(tensor, scales, block))
        else:
            weights[name] = Weights(tensor.shape, TensorRows(tensor))
    return _stacked(weights)


def _block(config: Config) -> tuple[int, int]:
    quantization = config.within("quantization_config")
    method = quantization.text("quant_method", "none")
    if method not in (*_METHODS, "none"):
        config.fail(
            f"the weights are quantized by {one_line(method)}, which dure does not read",
            "get the model in BF16",
        )
    sizes = quantization.listed("weight_block_size") or [128, 128]
    if len(sizes) != 2 or not all(type(one) is int and one > 0 for one in sizes):
        config.fail("weight_block_size makes no sense")
    return sizes[0], sizes[1]


def _stacked(weights: Mapping[str, Weights]) -> dict[str, Weights]:
    """Stack the experts that are saved one by one."""
    found: dict[str, Weights] = {}
    stacks: dict[str, dict[int, Weights]] = {}
    for name, one in weights.items():
        if match := _EXPERT.fullmatch(name):
            stack = stacks.setdefault(f"{match['layer']}.{match['rest']}", {})
            stack[int(match["number"])] = one
        else:
            found[name] = one
    for name, stack in stacks.items():
        experts = [stack.get(number) for number in range(len(stack))]
        whole = [one for one in experts if one is not None]
        if len(whole) < len(stack):
            missing = experts.index(None)
            raise ModelError(
                f"{one_line(name)}: expert {missing} is missing", "get the model again"
            )
        if len({(one.shape, one.rows.type, one.rows.kept) for one in whole}) > 1:
            raise ModelError(f"{one_line(name)}: its experts are not alike", "get the model again")
        found[name] = Weights(
            (len(whole), *whole[0].shape), StackedRows([one.rows for one in whole])
        )
    return found


def fused_experts(
    weights: Mapping[str, Weights], n_embd: int, n_ff: int
) -> Iterator[tuple[str, Weights]]:
    """Yield weights with fused experts taken apart: gate and up rows of each expert follow each other.

    transformers has [experts, 2 n_ff, n_embd] and [experts, n_embd, n_ff]; others have them transposed.
    Raises ModelError for other shapes.
    """
    sizes = {"gate_up_proj": (2 * n_ff, n_embd), "down_proj": (n_embd, n_ff)}
    bare = {name.removesuffix(".weight"): one for name, one in weights.items()}
    for name, one in weights.items():
        stem, _, last = name.removesuffix(".weight").rpartition(".")
        if not stem.endswith(".experts") or last not in sizes or f"{stem}.gate_up_proj" not in bare:
            yield name, one
            continue
        height, width = sizes[last]
        turned = any(
            h != w and bare[f"{stem}.{part}"].shape[1:] == (w, h)
            for part, (h, w) in sizes.items()
            if f"{stem}.{part}" in bare
        )
        rows, n = _upright(name, one, (height, width), turned=turned), one.shape[0]
        if last == "down_proj":
            yield f"{stem}.down_proj.weight", Weights((n, height, width), rows)
            continue
        order = np.arange(n * height).reshape(n, 2, n_ff)
        for part, rest in enumerate(("gate_proj", "up_proj")):
            picked = PickedRows(rows, order[:, part].reshape(-1))
            yield f"{stem}.{rest}.weight", Weights((n, n_ff, width), picked)


def _upright(name: str, one: Weights, matrix: tuple[int, int], *, turned: bool) -> Rows:
    """Return rows of matrices. turned: they are stored with rows and columns exchanged."""
    height, width = matrix
    if one.shape[1:] != ((width, height) if turned else matrix):
        raise ModelError(
            f"{one_line(name)} has the shape {one.shape}, not [experts, {height}, {width}]",
            "get the model again",
        )
    return TransposedRows(one.rows, width) if turned else one.rows
