"""The weights of a GGUF in torch: every tensor decoded to floats, in a model of transformers.

transformers reads some GGUFs itself, but computes otherwise than llama.cpp with many of them, and says so
of none (findings/transformers-gguf-positions.sh). So this inverts `dure.convert.huggingface`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dure.errors import ModelError
from dure.model.ggml import dequantize
from dure.model.gguf import GgufFile
from dure.model.gguf.values import one_line
from dure.tune.base.gguf_families import FAMILIES, ArchitectureKeys, TorchFamily
from dure.tune.base.gguf_rope import rope_parameters

if TYPE_CHECKING:
    import torch

__all__ = ["config_values", "torch_model"]

Floats = npt.NDArray[np.float32]
_FUSED = re.compile(r"(?P<stem>.+\.experts)\.(?P<part>gate_up|down)_proj(?P<bias>_bias)?")
_TABLES = frozenset({"token_embd.weight", "output.weight"})  # no family changes them
_AT_ONCE = 1 << 22  # floats
_FACTORS = "rope_freqs.weight"
_ABSENT = re.compile(r".+\.self_attn\.o_proj\.bias")
"""Llama's configuration has biases in all four matrices of attention or in none."""


def config_values(gguf: GgufFile) -> dict[str, Any]:
    """Return what config.json of this model says. Raises ModelError if transformers has no such model."""
    family, header = _family(gguf), ArchitectureKeys(gguf)
    factors = _decoded(gguf, _FACTORS) if _FACTORS in gguf.tensors else None
    keys = {
        role: f"tokenizer.ggml.{name}_token_id"
        for role, name in {"bos": "bos", "eos": "eos", "pad": "padding"}.items()
    }
    tokens = {
        f"{role}_token_id": gguf.int(key) if key in gguf.metadata else None
        for role, key in keys.items()
    }
    return {
        "model_type": family.model_type,
        "vocab_size": gguf.tensors["token_embd.weight"].shape[-1],
        "hidden_size": header.whole("embedding_length"),
        "intermediate_size": header.whole("feed_forward_length"),
        "num_hidden_layers": header.whole("block_count"),
        "num_attention_heads": header.n_head,
        "num_key_value_heads": header.n_head_kv,
        "max_position_embeddings": header.whole("context_length"),
        "rms_norm_eps": header.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        **tokens,
        **family.values(header, rope_parameters(gguf, header.head_dim, factors)),
    }


def torch_model(
    gguf: GgufFile, dtype: torch.dtype, progress: Callable[[int], None] = lambda _: None
) -> Any:
    """Return a model of transformers with the weights of a GGUF. progress: gets the bytes of each tensor.

    Raises ModelError for an architecture that is not among those that dure imports, or for a tensor that
    transformers' model has no place for.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    values = config_values(gguf)
    config = AutoConfig.for_model(**values)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    family, header, used = _family(gguf), ArchitectureKeys(gguf), {_FACTORS}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            sources = _sources(gguf, name)
            if not sources:
                parameter.zero_()
            elif _TABLES.issuperset(sources):
                _copy_rows(gguf, sources[0], parameter)
            else:
                found = family.joined(name, [_decoded(gguf, one) for one in sources], header)
                _check_shape(sources[0], found.shape, parameter)
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(found)))
            used.update(sources)
            progress(sum(gguf.tensors[one].size_bytes for one in sources))
    _check_used(gguf, used)
    return model.eval()


def _check_shape(source: str, shape: tuple[int, ...], parameter: torch.Tensor) -> None:
    if shape != tuple(parameter.shape):
        raise ModelError(
            f"{one_line(source)} has the shape {shape}, not {tuple(parameter.shape)}",
            "get the model again",
        )


def _copy_rows(gguf: GgufFile, source: str, parameter: torch.Tensor) -> None:
    """Decode a table a few rows at a time: as floats all of it may be larger than the model."""
    import torch

    tensor = gguf.tensors[source]
    _check_shape(source, tensor.shape[::-1], parameter)
    n_rows, width = parameter.shape
    row_bytes, at_once = tensor.size_bytes // n_rows, max(1, _AT_ONCE // width)
    for at in range(0, n_rows, at_once):
        n = min(at_once, n_rows - at)
        data = gguf.read(tensor, at * row_bytes, n * row_bytes)
        rows = dequantize(data, tensor.type, n * width).reshape(n, width)
        parameter[at : at + n].copy_(torch.from_numpy(rows))


def _family(gguf: GgufFile) -> TorchFamily:
    family = FAMILIES.get(gguf.architecture)
    if family is None:
        raise ModelError(
            f"{one_line(gguf.paths[0].name)} is of the architecture {one_line(gguf.architecture)}",
            f"dure brings {', '.join(FAMILIES)} back to torch",
        )
    return family


def _decoded(gguf: GgufFile, name: str) -> Floats:
    """Return a tensor: float32, in torch's order of dimensions."""
    tensor = gguf.tensors[name]
    data = gguf.read(tensor, 0, tensor.size_bytes)
    return dequantize(data, tensor.type, tensor.n_elements).reshape(tensor.shape[::-1])


def _sources(gguf: GgufFile, parameter: str) -> list[str]:
    """Return which tensors of the GGUF a parameter is made of, none if it has none and needs none."""
    found = []
    for theirs in _imported(parameter):
        ours = _names(gguf).get_name(theirs, (".weight", ".bias"))
        if ours in gguf.tensors:
            found.append(str(ours))
        elif not _ABSENT.fullmatch(parameter):
            raise ModelError(
                f"{one_line(gguf.paths[0].name)} has no tensor {ours or theirs}",
                "get the model again",
            )
    return found


def _imported(parameter: str) -> Iterator[str]:
    """Yield the names of a parameter's parts where experts are stacked, but gate and up are two."""
    if fused := _FUSED.fullmatch(parameter):
        kind = "bias" if fused["bias"] else "weight"
        for part in ("gate", "up") if fused["part"] == "gate_up" else ("down",):
            yield f"{fused['stem']}.{part}_proj.{kind}"
    else:
        yield f"{parameter}.weight" if parameter.endswith(".sinks") else parameter


def _names(gguf: GgufFile) -> Any:
    import gguf as gguf_package

    kinds = {name: kind for kind, name in gguf_package.MODEL_ARCH_NAMES.items()}
    n_layer = ArchitectureKeys(gguf).whole("block_count")
    return gguf_package.get_tensor_name_map(kinds[gguf.architecture], n_layer)


def _check_used(gguf: GgufFile, used: set[str]) -> None:
    for name in gguf.tensors:
        if name not in used:
            raise ModelError(
                f"{one_line(gguf.paths[0].name)} has the tensor {one_line(name)}, for which transformers' "
                "model has no place",
                "name the Hugging Face folder that the file was made of",
            )
