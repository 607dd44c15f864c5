"""Writes a language model that repeats a given text: a GGUF that llama.cpp runs and dure cuts.

Every token has exactly one likely successor, whatever came before it. So tests know its text in advance, on
every CPU, at every usual temperature and in every cut.

Its embedding of a token is the axis of the token's successor, its layer adds zero, and its output
matrix has each successor's axis as that successor's row. A model that says something else once a token was
there has a head of attention that sees nothing but this token, and then adds the axis of another beginning:
more than a token outside of its texts adds of the first one, and less than a token of its texts adds.
Knows nothing about ranks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dure.model.ggml import type_named
from dure.model.gguf import (
    GgufWriter,
    TensorSpec,
    Value,
    ValueKind,
    array_of,
    open_gguf,
    value_of,
)
from dure.model.vocabulary import Vocabulary

WIDTH, HEADS, KV_HEADS, HEAD = 128, 4, 2, 32
LEAD = 16.0  # a successor's logit is this times sqrt(WIDTH), all others are zero
AGAIN, INSTEAD, NEXT = 1.0, 2.0, 4.0  # what the axes of the first, the other and the next token add
LOOK = 4.0  # of queries and keys: of 65,536 tokens the one that is looked for has all the weight
_SLOW_ROPE = 1e12  # base of the positions' angles, so that the last pair of a head hardly turns

_TOKENS = ("tokens", "token_type", "eos_token_id")
_SPECIAL, _AS_WRITTEN = 3, 4  # types of tokens, of llama.h: LLAMA_TOKEN_TYPE_CONTROL, USER_DEFINED

Floats = npt.NDArray[np.float32]


def tokens_of(model: Path, text: str) -> list[int]:
    """Return a text's tokens in the vocabulary of a model."""
    with open_gguf(model) as gguf:
        vocabulary = Vocabulary(gguf)
        tokens = vocabulary.tokenize(text, special=True, add_bos=False)
        vocabulary.close()
    return tokens


def write_parrot(
    path: Path,
    source: Path,
    says: Sequence[int],
    *,
    n_ctx: int = 65536,
    template: str | None = None,
    metadata: Mapping[str, Value] | None = None,
    more: Mapping[str, Floats] | None = None,
    then: tuple[int, Sequence[int]] | None = None,
) -> None:
    """Write a model with the vocabulary of `source` that says the tokens `says`, over and over.

    There must be at most WIDTH tokens, all different; after any other token it starts again.
    `template` replaces the chat template; "" removes it. `metadata` is added, and
    so are the tensors of `more`. then: a token, and what the model says instead once it has seen that one;
    only the last token of both texts may be the same, and there must be at most WIDTH - 2 of them.
    """
    assert len(set(says)) == len(says) <= WIDTH, "every token has one successor"
    with open_gguf(source) as gguf:
        kept = {k: v for k, v in gguf.metadata.items() if k.startswith("tokenizer.")}
        n_vocab = gguf.tensors["token_embd.weight"].shape[1]
    if template is not None:
        kept.pop("tokenizer.chat_template", None)
    if template:
        kept["tokenizer.chat_template"] = value_of(ValueKind.STRING, template)
    tensors = {**_tensors(says, n_vocab), **(more or {})}
    if then is not None:
        _say_instead(tensors, says, *then)
    specs = [TensorSpec(name, x.shape[::-1], type_named("F32")) for name, x in tensors.items()]
    with GgufWriter(path, {**_metadata(n_ctx), **kept, **(metadata or {})}, specs) as writer:
        for x in tensors.values():
            writer.write(np.ascontiguousarray(x))


def write_speaker(
    path: Path,
    source: Path,
    pieces: Sequence[str],
    template: str,
    then: tuple[str, Sequence[str]] | None = None,
) -> None:
    """Write a model that says these pieces, a token each, and ends its answer.

    Unused tokens of the vocabulary are renamed to pieces that it does not have. then: a piece, and what the
    model says instead once that piece is before it.
    """
    with open_gguf(source) as gguf:
        kept = {name: gguf.metadata[f"tokenizer.ggml.{name}"].value for name in _TOKENS}
    texts, kinds, end = kept["tokens"], kept["token_type"], kept["eos_token_id"]
    unused = iter(range(kinds.index(_SPECIAL) - 1, 0, -1))
    mark, others = then or ("", ())
    for piece in [*pieces, *others, *([mark] if mark else [])]:
        if piece not in texts:
            token = next(unused)
            texts[token], kinds[token] = piece, _AS_WRITTEN
    metadata = {
        "tokenizer.ggml.tokens": array_of(ValueKind.STRING, texts),
        "tokenizer.ggml.token_type": array_of(ValueKind.INT32, kinds),
    }
    says = [*map(texts.index, pieces), end]
    instead = (texts.index(mark), [*map(texts.index, others), end]) if mark else None
    write_parrot(path, source, says, template=template, metadata=metadata, then=instead)


def _metadata(n_ctx: int) -> dict[str, Value]:
    numbers = {
        "block_count": 1,
        "context_length": n_ctx,
        "embedding_length": WIDTH,
        "feed_forward_length": WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
    }
    epsilon = Value(ValueKind.FLOAT32, struct.pack("<f", 1e-6))
    return {
        "general.architecture": value_of(ValueKind.STRING, "qwen3"),
        "general.name": value_of(ValueKind.STRING, "parrot"),
        "qwen3.attention.layer_norm_rms_epsilon": epsilon,
        "qwen3.rope.freq_base": Value(ValueKind.FLOAT32, struct.pack("<f", _SLOW_ROPE)),
        **{f"qwen3.{key}": value_of(ValueKind.UINT32, n) for key, n in numbers.items()},
    }


def _tensors(says: Sequence[int], n_vocab: int) -> dict[str, Floats]:
    """Return the tensors by name, in numpy's order of axes."""
    axes = np.eye(WIDTH, dtype=np.float32)
    embedding, output = np.tile(axes[0], (n_vocab, 1)), np.zeros((n_vocab, WIDTH), np.float32)
    for place, token in enumerate(says):
        embedding[token] = axes[(place + 1) % len(says)]
        output[token] = LEAD * axes[place]
    blk = "blk.0"
    zeros = {
        f"{blk}.attn_q.weight": (HEADS * HEAD, WIDTH),
        f"{blk}.attn_k.weight": (KV_HEADS * HEAD, WIDTH),
        f"{blk}.attn_v.weight": (KV_HEADS * HEAD, WIDTH),
        f"{blk}.attn_output.weight": (WIDTH, HEADS * HEAD),
        f"{blk}.ffn_gate.weight": (WIDTH, WIDTH),
        f"{blk}.ffn_up.weight": (WIDTH, WIDTH),
        f"{blk}.ffn_down.weight": (WIDTH, WIDTH),
    }
    ones = {
        f"{blk}.attn_norm.weight": WIDTH,
        f"{blk}.ffn_norm.weight": WIDTH,
        f"{blk}.attn_q_norm.weight": HEAD,
        f"{blk}.attn_k_norm.weight": HEAD,
        "output_norm.weight": WIDTH,
    }
    return {
        "token_embd.weight": embedding,
        **{name: np.zeros(shape, np.float32) for name, shape in zeros.items()},
        **{name: np.ones(n, np.float32) for name, n in ones.items()},
        "output.weight": output,
    }


def _say_instead(
    tensors: dict[str, Floats], says: Sequence[int], mark: int, others: Sequence[int]
) -> None:
    """Change tensors so that the model says others once the token `mark` was there."""
    n, blk = len(says), "blk.0"
    assert n + len(others) + 2 <= WIDTH, (
        "an axis for each, for the mark, and for whoever looks for it"
    )
    axes, embedding, output = (
        np.eye(WIDTH, dtype=np.float32),
        tensors["token_embd.weight"],
        tensors["output.weight"],
    )
    embedding *= AGAIN
    embedding[says[:-1]] *= NEXT / AGAIN
    for place, token in enumerate(others[:-1]):
        embedding[token] = NEXT * axes[n + place + 1]
    for place, token in enumerate(others):
        output[token] += LEAD * axes[n + place]
    looks, marked, slow = WIDTH - 1, WIDTH - 2, HEAD - 1
    embedding[:, looks] = AGAIN
    embedding[mark, marked] = AGAIN
    tensors[f"{blk}.attn_q.weight"][slow, looks] = 1
    tensors[f"{blk}.attn_k.weight"][slow, marked] = 1
    normed = math.sqrt(WIDTH / 3)  # each of the mark's three axes, once the layer has normed them
    tensors[f"{blk}.attn_v.weight"][0, marked] = 1 / normed
    tensors[f"{blk}.attn_output.weight"][n, 0] = INSTEAD
    tensors[f"{blk}.attn_q_norm.weight"][:] = LOOK
    tensors[f"{blk}.attn_k_norm.weight"][:] = LOOK
