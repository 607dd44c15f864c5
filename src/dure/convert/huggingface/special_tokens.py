"""Which tokens begin and end a text, fill it up, or stand for what is unknown.

Knows tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json.
Refuses to know vocabularies.
"""

from __future__ import annotations

from pathlib import Path

from dure.convert.huggingface.config import Config
from dure.convert.huggingface.generation import generation_of
from dure.convert.huggingface.json_file import read_json
from dure.convert.huggingface.pieces import Pieces
from dure.convert.model import Metadata
from dure.errors import ModelError

__all__ = ["special_keys", "special_text"]

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator"}
"""GGUF's names of them, one of which is misspelt."""
_MORE_ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_ENDS_BY_TEXT = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "</s>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<EOT>",
        "<|end_of_text|>",
        "<eos>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    ]
)
"""Tokens that end an answer for llama.cpp, whatever a file says. Source: `llama-vocab.cpp`."""


def special_text(values: Config, role: str) -> str | None:
    """Return the token that a tokenizer's configuration gives a role: a text, or an object that has it."""
    entry = dict(values.items()).get(f"{role}_token")
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def special_keys(folder: Path, config: Config, pieces: Pieces) -> Metadata:
    """Return the special tokens. Raises ModelError if more of them end an answer than a GGUF can name."""
    tokenizer, older = (
        Config(read_json(folder / name), name)
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    keys: dict[str, int] = {}
    for role, name in _ROLES.items():
        text = special_text(tokenizer, role) or special_text(older, role)
        number = pieces.number_of(text) if text else None
        ids = [one for one in config.token_ids(f"{role}_token_id") if pieces.text_of(one)]
        if number is not None or ids:
            keys[f"tokenizer.ggml.{name}_token_id"] = ids[0] if number is None else number
    ends = generation_of(folder).token_ids("eos_token_id") or config.token_ids("eos_token_id")
    others = [
        one
        for one in dict.fromkeys(ends)
        if (text := pieces.text_of(one)) and text not in _ENDS_BY_TEXT
    ]
    others = [one for one in others if one != keys.get("tokenizer.ggml.eos_token_id")]
    if len(others) > len(_MORE_ENDS):
        raise ModelError(
            f"generation_config.json ends answers with {len(ends)} tokens, more than a GGUF can name",
            f"leave {len(_MORE_ENDS) + 1} of them there",
        )
    return {**keys, **dict(zip(_MORE_ENDS, others, strict=False))}
