"""The architectures: transformers' configuration of a GGUF, and how its weights lie in transformers.

The inverse of `dure.convert.huggingface.families`. Refuses to know files and torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from dure.errors import ModelError
from dure.model.gguf import GgufFile
from dure.model.gguf.values import one_line

__all__ = ["FAMILIES", "ArchitectureKeys", "TorchFamily"]

Floats = npt.NDArray[np.float32]
_27B_LAYERS = 62  # Gemma 3's largest: llama.cpp scales its queries by n_embd / n_head


class ArchitectureKeys:
    """A GGUF's metadata without the architecture before each key. Raises ModelError as the file does."""

    def __init__(self, gguf: GgufFile) -> None:
        self.gguf, self._prefix = gguf, gguf.architecture

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number."""
        return self.gguf.int(f"{self._prefix}.{key}", default)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number."""
        return self.gguf.float(f"{self._prefix}.{key}", default)

    def has(self, key: str) -> bool:
        """Whether there is such a key."""
        return f"{self._prefix}.{key}" in self.gguf.metadata

    def has_tensor(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.gguf.tensors

    def refuse(self, what: str) -> NoReturn:
        """Raise a ModelError about this file."""
        raise ModelError(
            f"{one_line(self.gguf.paths[0].name)}: {what}, which dure cannot bring back to torch",
            "name the Hugging Face folder that the file was made of",
        )

    @property
    def n_head(self) -> int:
        """Return the number of query heads."""
        return self.whole("attention.head_count")

    @property
    def n_head_kv(self) -> int:
        """Return the number of KV heads."""
        return self.whole("attention.head_count_kv", self.n_head)

    @property
    def head_dim(self) -> int:
        """Return how many numbers a head has."""
        usual = self.whole("embedding_length") // self.n_head
        size = self.whole("attention.key_length", usual)
        if self.whole("attention.value_length", size) != size:
            self.refuse("keys and values have other widths")
        return size


@dataclass(frozen=True)
class TorchFamily:
    """An architecture in transformers.

    model_type: as config.json has it. values: of the configuration, besides what all have; gets RoPE's
    parameters. parts: joins what several tensors of a GGUF are to one parameter, by its name.
    """

    model_type: str
    values: Callable[[ArchitectureKeys, dict[str, Any]], dict[str, Any]]
    joined: Callable[[str, Sequence[Floats], ArchitectureKeys], Floats] = lambda _, parts, __: (
        parts[0]
    )


def _no_experts(header: ArchitectureKeys) -> None:
    if header.whole("expert_count", 0):
        header.refuse("it is a mixture of experts (Mixtral)")


def _llama_values(header: ArchitectureKeys, rope: dict[str, Any]) -> dict[str, Any]:
    _no_experts(header)
    return {
        "head_dim": header.head_dim,
        "rope_parameters": rope,
        "attention_bias": header.has_tensor("blk.0.attn_q.bias"),
        "mlp_bias": header.has_tensor("blk.0.ffn_gate.bias"),
    }


def _llama_joined(name: str, parts: Sequence[Floats], header: ArchitectureKeys) -> Floats:
    """Put each head's queries and keys back: llama.cpp has partners in RoPE side by side."""
    found = parts[0]
    heads = {"q_proj": header.n_head, "k_proj": header.n_head_kv}
    part = name.split(".")[-2]
    if part not in heads:
        return found
    pairs = found.reshape(heads[part], -1, 2, *found.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(found.shape)


def _qwen2_values(header: ArchitectureKeys, rope: dict[str, Any]) -> dict[str, Any]:
    if header.head_dim * header.n_head != header.whole("embedding_length"):
        header.refuse("its heads are not as wide as the model together")
    return {"rope_parameters": rope}


def _qwen3_values(header: ArchitectureKeys, rope: dict[str, Any]) -> dict[str, Any]:
    bias = header.has_tensor("blk.0.attn_q.bias")
    return {"head_dim": header.head_dim, "rope_parameters": rope, "attention_bias": bias}


def _experts(header: ArchitectureKeys) -> dict[str, Any]:
    return {"num_experts_per_tok": header.whole("expert_used_count")}


def _qwen3moe_values(header: ArchitectureKeys, rope: dict[str, Any]) -> dict[str, Any]:
    return {
        **_qwen3_values(header, rope),
        **_experts(header),
        "num_experts": header.whole("expert_count"),
        "moe_intermediate_size": header.whole("expert_feed_forward_length"),
        "norm_topk_prob": True,
    }


def _qwen3moe_joined(_name: str, parts: Sequence[Floats], _header: ArchitectureKeys) -> Floats:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _gemma3_values(header: ArchitectureKeys, rope: dict[str, Any]) -> dict[str, Any]:
    if header.whole("attention.sliding_window_pattern", 6) != 6:
        header.refuse("other layers than every sixth see the whole text")
    theta = header.number("rope.freq_base_swa", 10000.0)
    window = {"rope_type": "default", "rope_theta": theta}
    is_27b = header.whole("block_count") == _27B_LAYERS
    width = header.whole("embedding_length") // header.n_head if is_27b else header.head_dim
    values = {
        "head_dim": header.head_dim,
        "query_pre_attn_scalar": width,
        "sliding_window": header.whole("attention.sliding_window"),
        "rope_parameters": {"full_attention": rope, "sliding_attention": window},
    }
    if header.has("final_logit_softcapping"):
        values["final_logit_softcapping"] = header.number("final_logit_softcapping")
    return values


def _gemma3_joined(name: str, parts: Sequence[Floats], _header: ArchitectureKeys) -> Floats:
    """Take 1 from the norms: Gemma's multiply by 1 + weight."""
    return parts[0] - np.float32(1) if name.endswith("norm.weight") else parts[0]


def _gpt_oss_values(header: ArchitectureKeys, rope: dict[str, Any]) -> dict[str, Any]:
    return {
        **_experts(header),
        "head_dim": header.head_dim,
        "rope_parameters": rope,
        "num_local_experts": header.whole("expert_count"),
        "intermediate_size": header.whole("expert_feed_forward_length"),
        "sliding_window": header.whole("attention.sliding_window"),
    }


def _gpt_oss_joined(name: str, parts: Sequence[Floats], _header: ArchitectureKeys) -> Floats:
    """Lay out experts: matrices are transposed, and the outputs of gate and up take turns."""
    if ".experts." not in name:
        return parts[0]
    turned = [part.swapaxes(1, 2) if part.ndim == 3 else part for part in parts]
    return (
        turned[0] if len(turned) == 1 else np.stack(turned, -1).reshape(*turned[0].shape[:-1], -1)
    )


FAMILIES: Mapping[str, TorchFamily] = {
    "llama": TorchFamily("llama", _llama_values, _llama_joined),
    "qwen2": TorchFamily("qwen2", _qwen2_values),
    "qwen3": TorchFamily("qwen3", _qwen3_values),
    "qwen3moe": TorchFamily("qwen3_moe", _qwen3moe_values, _qwen3moe_joined),
    "gemma3": TorchFamily("gemma3_text", _gemma3_values, _gemma3_joined),
    "gpt-oss": TorchFamily("gpt_oss", _gpt_oss_values, _gpt_oss_joined),
}
"""By llama.cpp's name, `general.architecture`."""
