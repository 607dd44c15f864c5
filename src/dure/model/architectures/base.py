"""What a table of cuts is made of: rules for tensors, reduction points, and a model's sizes.

Knows which tensors llama.cpp's architectures have in common, and what a shard of each looks like.
Refuses to know single architectures (each is a file beside this one), files, bytes and ranks.

Source: llama.cpp `src/models/*.cpp` (shapes, graphs) and `gguf-py/gguf/constants.py` (names).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from dure.errors import CutError
from dure.model.alike import name_in_layer
from dure.model.cache_shape import CacheShape

__all__ = [
    "AFTER_ATTENTION",
    "AFTER_DENSE",
    "AFTER_EXPERTS",
    "ATTENTION",
    "DENSE",
    "EXPERTS",
    "NORMS",
    "Along",
    "Architecture",
    "Rule",
    "Shape",
]


class Along(Enum):
    """What a tensor's cut axis counts."""

    HEADS = "query heads"
    KV_HEADS = "KV heads"
    FFN = "feed-forward columns"
    VOCABULARY = "vocabulary rows"
    QUERY = "query heads x key_length"
    CONTEXT = "query heads x value_length"
    KEY = "KV heads x key_length"
    VALUE = "KV heads x value_length"
    NOTHING = "the same on every rank"
    FIRST_RANK = "on rank 0; zero elsewhere, because it is added before an all-reduce"


@dataclass(frozen=True)
class Rule:
    """How one tensor is cut: `axis` is ggml's (0 is the row's own, whose blocks must stay whole)."""

    along: Along
    axis: int = 0


@dataclass(frozen=True)
class Shape:
    """A model's sizes, read from its metadata.

    `n_ff`: columns of the feed-forward layer, of one expert if there are experts.
    `cache`: what it keeps of a sequence.
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
    cache: CacheShape

    @property
    def group(self) -> int:
        """Return the number of query heads to a KV head (GQA)."""
        return self.n_head // self.n_head_kv


WHOLE = Rule(Along.NOTHING)
NORMS: Mapping[str, Rule] = dict.fromkeys(
    [
        "attn_norm.weight",
        "ffn_norm.weight",
        "attn_q_norm.weight",
        "attn_k_norm.weight",
        "post_attention_norm.weight",
        "post_ffw_norm.weight",
        "rope_freqs.weight",
    ],
    WHOLE,
)
ATTENTION: Mapping[str, Rule] = {
    "attn_q.weight": Rule(Along.QUERY, 1),
    "attn_q.bias": Rule(Along.QUERY),
    "attn_k.weight": Rule(Along.KEY, 1),
    "attn_k.bias": Rule(Along.KEY),
    "attn_v.weight": Rule(Along.VALUE, 1),
    "attn_v.bias": Rule(Along.VALUE),
    "attn_output.weight": Rule(Along.CONTEXT, 0),
    "attn_output.bias": WHOLE,  # added after the sum
    "attn_sinks.weight": Rule(Along.HEADS),
}
DENSE: Mapping[str, Rule] = {
    "ffn_gate.weight": Rule(Along.FFN, 1),
    "ffn_gate.bias": Rule(Along.FFN),
    "ffn_up.weight": Rule(Along.FFN, 1),
    "ffn_up.bias": Rule(Along.FFN),
    "ffn_down.weight": Rule(Along.FFN, 0),
    "ffn_down.bias": WHOLE,  # added after the sum
}
EXPERTS: Mapping[str, Rule] = {
    "ffn_gate_inp.weight": WHOLE,
    "ffn_gate_inp.bias": WHOLE,
    "ffn_gate_exps.weight": Rule(Along.FFN, 1),
    "ffn_gate_exps.bias": Rule(Along.FFN),
    "ffn_up_exps.weight": Rule(Along.FFN, 1),
    "ffn_up_exps.bias": Rule(Along.FFN),
    "ffn_down_exps.weight": Rule(Along.FFN, 0),
    "ffn_down_exps.bias": Rule(
        Along.FIRST_RANK
    ),  # added before the experts' sum, which is ours too
}
ENDS: Mapping[str, Rule] = {
    "token_embd.weight": Rule(Along.VOCABULARY, 1),
    "output.weight": Rule(Along.VOCABULARY, 1),
    "output_norm.weight": WHOLE,
    "rope_freqs.weight": WHOLE,
    "rope_factors_long.weight": WHOLE,
    "rope_factors_short.weight": WHOLE,
}


AFTER_ATTENTION = "=attn_output.weight"
AFTER_DENSE = "=ffn_down.weight"
AFTER_EXPERTS = "^ffn_moe_out-"


def _unscaled(_n_embd: int) -> float:
    return 1.0


def _uncorrected(_shape: Shape, _n_head: int) -> float:
    return 1.0


@dataclass(frozen=True)
class Architecture:
    """One architecture: its tensors' rules and its quirks.

    `tensors`: by name, without the `blk.N.` of a layer.
    `reduction_points`: where the graph holds partial vectors, two a layer; "=x" is the product with
        weight x, "^x" a node whose own name begins with x.
    `ffn_length_key`: where the metadata has the columns of the feed-forward layer, or of one expert.
    `shard_name`: the architecture a shard is written as, if llama.cpp ties this one's number of
        heads to its width and a twin with the same graph does not.
    `ties_output`: without `output.weight` llama.cpp takes `token_embd.weight` for it.
    `embedding_scale`: what a token's embedding of n_embd values is multiplied by before the first layer;
        llama.cpp does so for tokens only.
    `query_correction`: what a shard of n_head query heads multiplies its query norm by.
    """

    name: str
    tensors: Mapping[str, Rule]
    reduction_points: tuple[str, ...]
    ffn_length_key: str = "feed_forward_length"
    shard_name: str | None = None
    ties_output: bool = True
    embedding_scale: Callable[[int], float] = _unscaled
    query_correction: Callable[[Shape, int], float] = _uncorrected

    @property
    def weights_with_cut_inputs(self) -> list[str]:
        """Return the names of the weights whose rows are cut: each rank sees a part of their input."""
        cut = (Along.CONTEXT, Along.FFN)
        return [
            name
            for name, rule in self.tensors.items()
            if name.endswith(".weight") and rule.axis == 0 and rule.along in cut
        ]

    def rule(self, tensor_name: str) -> Rule:
        """Return the rule of a tensor. Raises CutError if the table does not know it."""
        name = name_in_layer(tensor_name)
        rule = self.tensors.get(name) if name else ENDS.get(tensor_name)
        if rule is None:
            raise CutError(
                f"tensor {tensor_name} is not in dure's table of {self.name}, so this model cannot be cut",
                "run it on one rank",
            )
        return rule
