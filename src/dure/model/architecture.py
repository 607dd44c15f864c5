"""Which tensor of which architecture is cut along what: tables, not code.

Knows the tensor names of llama.cpp's architectures, what a shard of each looks like, and where its
partial vectors must be summed.
Refuses to know files, bytes and ranks: see `gguf` and `cut`.
Adding an architecture is adding a table here and a parity test.

Source: llama.cpp `src/models/*.cpp` (shapes, graphs) and `gguf-py/gguf/constants.py` (names).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from dure.errors import CutError, ModelError
from dure.model.gguf import GgufFile

__all__ = ["ARCHITECTURES", "Along", "Architecture", "Rule", "Shape", "architecture_of", "shape_of"]


class Along(Enum):
    """What a tensor's cut axis counts."""

    QUERY = "query heads x key_length"
    KEY = "KV heads x key_length"
    VALUE = "KV heads x value_length"
    CONTEXT = "query heads x value_length"
    HEADS = "query heads"
    FFN = "feed-forward columns"
    VOCABULARY = "vocabulary rows"
    NOTHING = "the same on every rank"
    FIRST_RANK = "on rank 0; zero elsewhere, because it is added before a sum"


@dataclass(frozen=True)
class Rule:
    """How one tensor is cut: `axis` is ggml's (0 is the row's own, whose blocks must stay whole)."""

    along: Along
    axis: int = 0


_WHOLE = Rule(Along.NOTHING)
_NORMS: Mapping[str, Rule] = dict.fromkeys(
    [
        "attn_norm.weight",
        "ffn_norm.weight",
        "attn_q_norm.weight",
        "attn_k_norm.weight",
        "post_attention_norm.weight",
        "post_ffw_norm.weight",
        "rope_freqs.weight",
    ],
    _WHOLE,
)
_ATTENTION: Mapping[str, Rule] = {
    "attn_q.weight": Rule(Along.QUERY, 1),
    "attn_q.bias": Rule(Along.QUERY),
    "attn_k.weight": Rule(Along.KEY, 1),
    "attn_k.bias": Rule(Along.KEY),
    "attn_v.weight": Rule(Along.VALUE, 1),
    "attn_v.bias": Rule(Along.VALUE),
    "attn_output.weight": Rule(Along.CONTEXT, 0),
    "attn_output.bias": _WHOLE,  # added after the sum
    "attn_sinks.weight": Rule(Along.HEADS),
}
_DENSE: Mapping[str, Rule] = {
    "ffn_gate.weight": Rule(Along.FFN, 1),
    "ffn_gate.bias": Rule(Along.FFN),
    "ffn_up.weight": Rule(Along.FFN, 1),
    "ffn_up.bias": Rule(Along.FFN),
    "ffn_down.weight": Rule(Along.FFN, 0),
    "ffn_down.bias": _WHOLE,  # added after the sum
}
_EXPERTS: Mapping[str, Rule] = {
    "ffn_gate_inp.weight": _WHOLE,
    "ffn_gate_inp.bias": _WHOLE,
    "ffn_gate_exps.weight": Rule(Along.FFN, 1),
    "ffn_gate_exps.bias": Rule(Along.FFN),
    "ffn_up_exps.weight": Rule(Along.FFN, 1),
    "ffn_up_exps.bias": Rule(Along.FFN),
    "ffn_down_exps.weight": Rule(Along.FFN, 0),
    "ffn_down_exps.bias": Rule(
        Along.FIRST_RANK
    ),  # added before the experts' sum, which is ours too
}
_ENDS: Mapping[str, Rule] = {
    "token_embd.weight": Rule(Along.VOCABULARY, 1),
    "output.weight": Rule(Along.VOCABULARY, 1),
    "output_norm.weight": _WHOLE,
    "rope_freqs.weight": _WHOLE,
    "rope_factors_long.weight": _WHOLE,
    "rope_factors_short.weight": _WHOLE,
}


@dataclass(frozen=True)
class Architecture:
    """One architecture: its tensors' rules and what is special about it.

    `tensors`: by name, without the `blk.N.` of a layer.
    `sums`: the graph's reduction points, two a layer; "=x" is the product with weight x,
        "^x" a node whose own name begins with x.
    `shard_name`: the architecture a shard is written as, where llama.cpp ties this one's number of
        heads to its width and a twin with the same graph does not.
    `ties_output`: without `output.weight` llama.cpp takes `token_embd.weight` for it.
    """

    name: str
    tensors: Mapping[str, Rule]
    sums: tuple[str, ...]
    ffn_length_key: str = "feed_forward_length"
    shard_name: str | None = None
    ties_output: bool = True
    scales_embedding: bool = False  # by sqrt(n_embd); llama.cpp does so for tokens only
    width_scaled_n_layer: int = 0  # at this many layers llama.cpp scales queries by n_embd / n_head

    def rule(self, tensor_name: str) -> Rule:
        """The rule of a tensor. Raises CutError where the table does not know it."""
        match = re.fullmatch(r"blk\.\d+\.(.+)", tensor_name)
        rule = (self.tensors if match else _ENDS).get(match[1] if match else tensor_name)
        if rule is None:
            raise CutError(
                f"tensor {tensor_name} is not in dure's table of {self.name}, so this model cannot be "
                "cut: run it on one rank"
            )
        return rule

    def embedding_scale(self, n_embd: int) -> float:
        """What a token's embedding is multiplied by before the first layer."""
        return math.sqrt(n_embd) if self.scales_embedding else 1.0

    def query_correction(self, shape: Shape, n_head: int) -> float:
        """What a shard of `n_head` query heads multiplies its query norm by.

        Gemma3 27B's queries are scaled by the width of a head as n_embd / n_head tells it, and a
        shard has fewer heads on the same n_embd.
        """
        if shape.n_layer != self.width_scaled_n_layer:
            return 1.0
        return math.sqrt((shape.n_embd // n_head) / (shape.n_embd // shape.n_head))


_AFTER_ATTENTION = "=attn_output.weight"
_AFTER_DENSE = "=ffn_down.weight"
_AFTER_EXPERTS = "^ffn_moe_out-"

ARCHITECTURES: Mapping[str, Architecture] = {
    a.name: a
    for a in (
        Architecture(
            "llama",  # Mistral and Mixtral too
            {**_NORMS, **_ATTENTION, **_DENSE, **_EXPERTS},
            (_AFTER_ATTENTION, _AFTER_DENSE, _AFTER_EXPERTS),
        ),
        Architecture(
            "qwen2",
            {**_NORMS, **_ATTENTION, **_DENSE},
            (_AFTER_ATTENTION, _AFTER_DENSE),
            shard_name="exaone",  # qwen2's query rows must be n_embd; exaone's graph is the same
        ),
        Architecture("qwen3", {**_NORMS, **_ATTENTION, **_DENSE}, (_AFTER_ATTENTION, _AFTER_DENSE)),
        Architecture(
            "qwen3moe",
            {**_NORMS, **_ATTENTION, **_EXPERTS},
            (_AFTER_ATTENTION, _AFTER_EXPERTS),
            ffn_length_key="expert_feed_forward_length",
        ),
        Architecture(
            "gemma3",
            {**_NORMS, **_ATTENTION, **_DENSE},
            (_AFTER_ATTENTION, _AFTER_DENSE),
            scales_embedding=True,
            width_scaled_n_layer=62,
        ),
        Architecture(
            "gpt-oss",
            {**_NORMS, **_ATTENTION, **_EXPERTS},
            (_AFTER_ATTENTION, _AFTER_EXPERTS),
            ffn_length_key="expert_feed_forward_length",
            ties_output=False,
        ),
    )
}


def architecture_of(model: GgufFile) -> Architecture:
    """The table of a model's architecture. Raises CutError where there is none."""
    known = ARCHITECTURES.get(model.architecture)
    if known is None:
        raise CutError(
            f"architecture {model.architecture} has no table of cuts (there are: "
            f"{', '.join(ARCHITECTURES)}), so it cannot be cut: run it on one rank"
        )
    return known


@dataclass(frozen=True)
class Shape:
    """A model's sizes, read from its metadata.

    `n_ff`: columns of the feed-forward layer, of one expert where there are experts.
    """

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    key_length: int
    value_length: int
    n_ff: int
    n_vocab: int
    n_expert: int
    n_expert_used: int
    context_length: int

    @property
    def group(self) -> int:
        """Query heads to a KV head."""
        return self.n_head // self.n_head_kv


def shape_of(model: GgufFile) -> Shape:
    """Read the sizes every model has. Raises ModelError where one is missing or impossible."""
    arch = model.architecture
    known = ARCHITECTURES.get(arch)
    n_layer = _positive(model, f"{arch}.block_count")
    n_embd = _positive(model, f"{arch}.embedding_length")
    n_head = _positive(model, f"{arch}.attention.head_count")
    n_head_kv = _positive(model, f"{arch}.attention.head_count_kv", n_head)
    if n_head % n_head_kv:
        raise ModelError(
            f"{model.paths[0].name}: {n_head} query heads do not divide over {n_head_kv} KV heads: "
            "its header is damaged, get the file again"
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
    )


def _vocabulary(model: GgufFile) -> int:
    for name in ("output.weight", "token_embd.weight"):
        if name in model.tensors and len(model.tensors[name].shape) == 2:
            return model.tensors[name].shape[1]
    raise ModelError(
        f"{model.paths[0].name}: there is no token_embd.weight: this file is no language model "
        "(a LoRA adapter, a projector or a vocabulary alone?), name the model's own file"
    )


def _number(model: GgufFile, key: str, default: int | None) -> int:
    """A whole number, or a list that says the same number for every layer."""
    value = model.metadata.get(key)
    if value is None:
        if default is None:
            raise ModelError(
                f"{model.paths[0].name}: metadata {key} is missing: get the file again"
            )
        return default
    if isinstance(value.value, list):
        numbers = set(value.value)
        if len(numbers) == 1 and isinstance(only := numbers.pop(), int):
            return only
        raise ModelError(
            f"{model.paths[0].name}: {key} differs from layer to layer, which dure cannot cut or "
            "measure yet: use a model with the same number in every layer"
        )
    return model.int(key)


def _positive(model: GgufFile, key: str, default: int | None = None) -> int:
    number = _number(model, key, default)
    if number < 1:
        raise ModelError(
            f"{model.paths[0].name}: {key} is {number}: its header is damaged, get the file again"
        )
    return number
