"""The architectures: what each one's config.json means to llama.cpp, and what it does to the weights.

Knows llama, mistral without a window, qwen2, qwen3, qwen3moe, gemma3's text model and gpt-oss.
Refuses to know files. What llama.cpp would compute otherwise than transformers is refused by name.
Source: llama.cpp `src/models/*.cpp`; transformers `models/*/configuration_*.py`, `modeling_*.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dure.convert.huggingface.config import Config
from dure.convert.huggingface.gpt_oss import gpt_oss_weights
from dure.convert.huggingface.rows import PickedRows, ShiftedRows, TensorRows
from dure.convert.huggingface.safetensors_file import StoredTensor
from dure.convert.huggingface.weights import Weights, fused_experts, plain_weights
from dure.model.gguf import Value

__all__ = ["FAMILIES", "Family", "head_dim"]

Tensors = Mapping[str, StoredTensor]
Keys = dict[str, Value | bool | int | float | str]


@dataclass(frozen=True)
class Family:
    """An architecture, as llama.cpp calls it.

    check: refuses what llama.cpp does not compute. more: metadata besides what all have. weights: by
    Hugging Face's names, as llama.cpp wants them. defaults: what transformers takes for a missing key.
    """

    architecture: str
    check: Callable[[Config], None]
    weights: Callable[[Tensors, Config], Mapping[str, Weights]] = plain_weights
    more: Callable[[Config], Keys] = lambda _: {}
    defaults: Mapping[str, Any] = field(default_factory=dict)


def head_dim(config: Config) -> int:
    """Return how many numbers a head has."""
    if config.has("head_dim"):
        return config.whole("head_dim")
    return config.whole("hidden_size") // config.whole("num_attention_heads")


def _check_plain(config: Config) -> None:
    """Refuse what no model of Llama's and Qwen's kind has in llama.cpp."""
    config.require("hidden_act", "silu", default="silu")
    config.require("use_sliding_window", False, None)
    if not config.has("use_sliding_window"):  # Mistral's first
        config.require("sliding_window", None)
    layers = set(config.listed("layer_types"))
    if layers - {"full_attention"}:
        config.require("layer_types", ["full_attention"])


def _check_experts(config: Config) -> None:
    _check_plain(config)
    config.require("norm_topk_prob", True, default=False)
    config.require("decoder_sparse_step", 1, default=1)
    config.require("mlp_only_layers", [], None)


def _check_gemma3(config: Config) -> None:
    act = "gelu_pytorch_tanh"
    config.require(
        "hidden_activation" if config.has("hidden_activation") else "hidden_act", act, None
    )
    config.require("attn_logit_softcapping", None)
    config.require("use_bidirectional_attention", False, None)
    for key in ("sliding_window_pattern", "_sliding_window_pattern"):
        config.require(key, 6, None)
    _check_windows(config, 6)
    heads, n_embd = config.whole("num_attention_heads"), config.whole("hidden_size")
    is_27b = config.whole("num_hidden_layers") == 62
    config.require("query_pre_attn_scalar", n_embd // heads if is_27b else head_dim(config))


def _check_gpt_oss(config: Config) -> None:
    config.require("hidden_act", "silu", default="silu")
    config.require("swiglu_limit", 7, None)
    config.require("swiglu_alpha", 1.702, None)
    config.require("attention_bias", True, None)
    _check_windows(config, 2)


def _check_windows(config: Config, period: int) -> None:
    """Check that all layers but the last of each period see a window."""
    layers = config.listed("layer_types")
    usual = ["sliding_attention"] * (period - 1) + ["full_attention"]
    if any(one != usual[layer % period] for layer, one in enumerate(layers)):
        config.fail(
            f"layer_types is not {period - 1} with a window, then one without, and so on",
            "dure cannot run this model",
        )


def _llama_keys(config: Config) -> Keys:
    return {"vocab_size": config.whole("vocab_size"), "rope.dimension_count": head_dim(config)}


def _expert_keys(config: Config) -> Keys:
    return {
        "expert_count": config.whole("num_local_experts", "num_experts"),
        "expert_used_count": config.whole("num_experts_per_tok", "experts_per_token"),
        "expert_feed_forward_length": config.whole("moe_intermediate_size", "intermediate_size"),
    }


def _gemma3_keys(config: Config) -> Keys:
    keys: Keys = {"attention.sliding_window": config.whole("sliding_window")}
    if config.has("final_logit_softcapping"):
        keys["final_logit_softcapping"] = config.number("final_logit_softcapping")
    return keys


def _gpt_oss_keys(config: Config) -> Keys:
    return {**_expert_keys(config), "attention.sliding_window": config.whole("sliding_window")}


def _llama_weights(tensors: Tensors, config: Config) -> Mapping[str, Weights]:
    """Put each head's queries and keys into llama.cpp's order: partners in RoPE lie side by side."""
    weights = plain_weights(tensors, config)
    n_head = config.whole("num_attention_heads")
    heads = {"q_proj": n_head, "k_proj": config.whole("num_key_value_heads", default=n_head)}
    for name, one in weights.items():
        *_, part, kind = ["", *name.split(".")]
        if part not in heads:
            continue
        if kind == "bias":
            one = Weights(one.shape, TensorRows(tensors[name], flat=True))  # noqa: PLW2901
        if one.rows.n_rows % (2 * heads[part]):
            config.fail(f"{one.rows.n_rows} rows of {part} are no {heads[part]} heads")
        weights[name] = Weights(
            one.shape, PickedRows(one.rows, _pairs(one.rows.n_rows, heads[part]))
        )
    return weights


def _pairs(n_rows: int, n_head: int) -> npt.NDArray[np.int64]:
    halves = np.arange(n_rows).reshape(n_head, 2, -1)
    return halves.swapaxes(1, 2).reshape(-1)


def _expert_weights(tensors: Tensors, config: Config) -> Mapping[str, Weights]:
    sizes = config.whole("hidden_size"), config.whole("moe_intermediate_size")
    return dict(fused_experts(plain_weights(tensors, config), *sizes))


def _gemma3_weights(tensors: Tensors, config: Config) -> Mapping[str, Weights]:
    """Add 1 to the norms: Gemma's multiply by 1 + weight."""
    weights = plain_weights(tensors, config)
    for name, one in weights.items():
        if name.endswith("norm.weight"):
            weights[name] = Weights(one.shape, ShiftedRows(one.rows, 1.0))
    return weights


_LLAMA = Family("llama", _check_plain, _llama_weights, _llama_keys)
_GEMMA3 = Family(
    "gemma3",
    _check_gemma3,
    _gemma3_weights,
    _gemma3_keys,
    {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
)
FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": Family("qwen2", _check_plain),
    "Qwen3ForCausalLM": Family("qwen3", _check_plain, defaults={"head_dim": 128}),
    "Qwen3MoeForCausalLM": Family("qwen3moe", _check_experts, _expert_weights, _expert_keys),
    "Gemma3ForCausalLM": _GEMMA3,
    "Gemma3ForConditionalGeneration": _GEMMA3,
    "GptOssForCausalLM": Family(
        "gpt-oss", _check_gpt_oss, gpt_oss_weights, _gpt_oss_keys, {"rope_theta": 150000.0}
    ),
}
