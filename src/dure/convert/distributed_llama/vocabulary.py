"""Distributed Llama's tokens in llama.cpp's words, so that both turn a text into the same tokens.

Knows how both merge bytes. Distributed Llama joins any two neighbours whose bytes together are a token, the
best score first. llama.cpp's byte pair encoding joins the pairs of a list in its order, within pieces of
the text that a *pre-tokenizer* cuts; a `.t` file names none.
The vocabularies of Llama 3 and Qwen are recognized, and get the one that those models were trained with.
Any other gets the one that cuts least, at numbers: then both agree, unless a token has two digits or more.
Source: Distributed Llama `Tokenizer::encode`, llama.cpp `llm_tokenizer_bpe`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

from dure.convert.distributed_llama.tokenizer import TokenizerFile
from dure.convert.model import Metadata
from dure.errors import ModelError
from dure.model.gguf import Value, ValueKind, array_of

_PRE_TOKENIZERS = {
    "5861169db03f237c50ae849a13788f96c746f9636d9722ed30a45b7e0675ce30": "llama-bpe",
    "33bc5cb3ea15d95094254600052ea2af5a2b1f2329fe534700587ac0e40a8b2d": "qwen2",
}
"""By the hash of the tokens that are not special."""

_CUTS_LEAST = "superbpe"
_LOWEST_SCORE = -1e10  # of a token that Distributed Llama merges
_IN_TEXTS = (*range(0x01, 0x80), *range(0x80, 0xC0), *range(0xC2, 0xF5))  # bytes of UTF-8
_CONTROL = (
    "<|",
    "<\N{FULLWIDTH VERTICAL LINE}",
)  # how Llama 3, Qwen and DeepSeek begin their marks
_END_KEYS = ("eos", "eot", "eom")  # llama.cpp has three keys for tokens that end an answer


class _Kind(IntEnum):
    """Source: llama.cpp `llama_token_type`."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


def vocabulary_metadata(tokenizer: TokenizerFile, vocabulary: int) -> Metadata:
    """Return a GGUF's keys for a tokenizer. vocabulary: how many embeddings the model has.

    Raises ModelError if llama.cpp cannot have these tokens.
    """
    _check_bytes(tokenizer)
    texts, kinds = _tokens(tokenizer, vocabulary)
    _check_distinct(tokenizer, texts)
    metadata: dict[str, Value | bool | int | str] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre_tokenizer(tokenizer.regular),
        "tokenizer.ggml.tokens": array_of(ValueKind.STRING, texts),
        "tokenizer.ggml.token_type": array_of(ValueKind.INT32, kinds),
        "tokenizer.ggml.merges": array_of(ValueKind.STRING, list(_merges(tokenizer))),
        "tokenizer.ggml.bos_token_id": tokenizer.begin,
        "tokenizer.ggml.add_bos_token": tokenizer.add_begin,
    }
    for key, token in zip(_END_KEYS, _ends(tokenizer), strict=False):
        metadata[f"tokenizer.ggml.{key}_token_id"] = token
    if tokenizer.template:
        metadata["tokenizer.chat_template"] = tokenizer.template
    return metadata


def _letters() -> list[str]:
    """Return GPT-2's letter for each byte. Source: its `bytes_to_unicode`."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


_TABLE = str.maketrans({chr(byte): letter for byte, letter in enumerate(_letters())})


def _written(token: bytes) -> str:
    return token.decode("latin-1").translate(_TABLE)


def _tokens(tokenizer: TokenizerFile, vocabulary: int) -> tuple[list[str], list[_Kind]]:
    texts = [_written(token) for token in tokenizer.regular]
    kinds = [_Kind.NORMAL] * len(texts)
    for index in range(tokenizer.begin, len(tokenizer.tokens)):
        text = _special_text(tokenizer, index)
        texts.append(text)
        is_control = index in (tokenizer.begin, *tokenizer.ends) or text.startswith(_CONTROL)
        # what is not, such as <think>, belongs to an answer's text
        kinds.append(_Kind.CONTROL if is_control else _Kind.USER_DEFINED)
    for index in range(len(tokenizer.tokens), vocabulary):
        texts.append(f"[PAD{index}]")
        kinds.append(_Kind.UNUSED)
    return texts, kinds


def _special_text(tokenizer: TokenizerFile, index: int) -> str:
    try:
        return tokenizer.tokens[index].decode()
    except UnicodeDecodeError:
        raise ModelError(
            f"{tokenizer.name}: the special token {index} is not UTF-8",
            "it is damaged, get it again",
        ) from None


def _merges(tokenizer: TokenizerFile) -> Iterator[str]:
    regular = set(tokenizer.regular)
    ranked = sorted(
        (-score, index)
        for index, score in enumerate(tokenizer.scores[: tokenizer.begin])
        if score > _LOWEST_SCORE and not math.isnan(score)
    )
    for _, index in ranked:
        token = tokenizer.tokens[index]
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in regular and right in regular:
                yield f"{_written(left)} {_written(right)}"


def _pre_tokenizer(regular: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for token in regular:
        digest.update(struct.pack("<I", len(token)) + token)
    return _PRE_TOKENIZERS.get(digest.hexdigest(), _CUTS_LEAST)


def _ends(tokenizer: TokenizerFile) -> list[int]:
    ends = list(dict.fromkeys(tokenizer.ends))
    if len(ends) > len(_END_KEYS):
        raise ModelError(
            f"{tokenizer.name} has {len(ends)} tokens that end an answer, and a GGUF holds "
            f"{len(_END_KEYS)}",
            "convert the tokenizer again, with fewer",
        )
    return ends


def _check_bytes(tokenizer: TokenizerFile) -> None:
    known = {token[0] for token in tokenizer.regular if len(token) == 1}
    missing = [byte for byte in _IN_TEXTS if byte not in known]
    if missing:
        raise ModelError(
            f"{tokenizer.name} has no token for the byte {missing[0]:#04x} before token "
            f"{tokenizer.begin}, where the special tokens begin",
            "import the original model instead: Distributed Llama cannot read such a vocabulary either",
        )


def _check_distinct(tokenizer: TokenizerFile, texts: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        if first.setdefault(text, index) != index:
            raise ModelError(
                f"{tokenizer.name}: the tokens {first[text]} and {index} are the same, {text[:60]!a}",
                "it is damaged, get it again",
            )
