"""Whether tensors make a whole model: every block has what the others have, in the sizes of config.json.

Refuses to know where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dure.convert.huggingface.config import Config
from dure.convert.huggingface.families import head_dim
from dure.errors import ModelError

__all__ = ["BLOCK", "check_complete"]

BLOCK = re.compile(r"blk\.(?P<number>\d{1,6})\.(?P<rest>.+)")
_MOST_TOKENS = 1 << 21  # the largest vocabularies have 262,208

Shapes = Mapping[str, tuple[int, ...]]


def check_complete(shapes: Shapes, config: Config) -> None:
    """Check the shapes of a model's tensors, in ggml's order. Raises ModelError naming what is wrong."""
    blocks: dict[int, dict[str, tuple[int, ...]]] = {
        number: {} for number in range(config.whole("num_hidden_layers"))
    }
    for name, shape in shapes.items():
        if (block := BLOCK.fullmatch(name)) and int(block["number"]) in blocks:
            blocks[int(block["number"])][block["rest"]] = shape
    kinds = {rest: shape for block in blocks.values() for rest, shape in block.items()}
    _check_missing(shapes, blocks, kinds, config)
    sizes = {**kinds, **_sizes(config)}
    for name, shape in shapes.items():
        block = BLOCK.fullmatch(name)
        wanted = sizes.get(block["rest"] if block else name, shape)
        if shape != wanted:
            raise ModelError(
                f"tensor {name} has the shape {shape}, not {wanted}",
                "get config.json and the tensors of one model",
            )


def _check_missing(
    shapes: Shapes, blocks: Mapping[int, Shapes], kinds: Shapes, config: Config
) -> None:
    ends = ["token_embd.weight", "output_norm.weight"]
    if not config.flag("tie_word_embeddings", default=False):
        ends.append("output.weight")
    missing = [name for name in ends if name not in shapes]
    missing += [
        f"blk.{number}.{rest}"
        for number, block in blocks.items()
        for rest in kinds or ["attn_q.weight"]
        if rest not in block
    ]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"tensor {missing[0]}{more} is missing", "get all files of the model")
    n_vocab = shapes["token_embd.weight"][-1]
    if n_vocab > _MOST_TOKENS:
        raise ModelError(
            f"tensor token_embd.weight is of {n_vocab} tokens, more than {_MOST_TOKENS}",
            "get the model again",
        )


def _sizes(config: Config) -> Shapes:
    """Return what config.json says of the tensors that most architectures have."""
    n_embd, n_head = config.whole("hidden_size"), config.whole("num_attention_heads")
    n_query = n_head * head_dim(config)
    n_key = config.whole("num_key_value_heads", default=n_head) * head_dim(config)
    n_ff, n_vocab = config.whole("intermediate_size"), config.whole("vocab_size")
    return {
        "token_embd.weight": (n_embd, n_vocab),
        "output.weight": (n_embd, n_vocab),
        "output_norm.weight": (n_embd,),
        "attn_norm.weight": (n_embd,),
        "attn_q.weight": (n_embd, n_query),
        "attn_k.weight": (n_embd, n_key),
        "attn_v.weight": (n_embd, n_key),
        "attn_output.weight": (n_query, n_embd),
        "ffn_norm.weight": (n_embd,),
        "ffn_up.weight": (n_embd, n_ff),
        "ffn_gate.weight": (n_embd, n_ff),
        "ffn_down.weight": (n_ff, n_embd),
    }
