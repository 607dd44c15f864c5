"""A folder's tokenizer as metadata: from tokenizer.json, or from sentencepiece's tokenizer.model.

tokenizer.json comes first, since it is what transformers itself reads; the scores that it lacks come from
tokenizer.model if both are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dure.convert.huggingface.chat_template import template_keys
from dure.convert.huggingface.config import Config
from dure.convert.huggingface.json_file import read_json
from dure.convert.huggingface.pieces import AddedToken, PieceKind, Pieces, added_tokens
from dure.convert.huggingface.sentencepiece_model import read_sentencepiece
from dure.convert.huggingface.special_tokens import special_keys
from dure.convert.huggingface.tokenizer_json import BYTE_TEXTS, TokenizerJson
from dure.convert.model import Metadata
from dure.errors import ModelError

__all__ = ["tokenizer_keys"]


def tokenizer_keys(folder: Path, config: Config, n_vocab: int) -> Metadata:
    """Return all of a tokenizer. n_vocab: rows of the embeddings.

    Raises ModelError if a piece is missing, or llama.cpp's tokenizer cannot do the same.
    """
    pieces = Pieces(n_vocab)
    if (folder / "tokenizer.json").exists():
        tokenizer = TokenizerJson(read_json(folder / "tokenizer.json"))
        keys = tokenizer.fill(pieces, _scores(folder, tokenizer))
        keys = {**keys, **tokenizer.ends(_settings(folder))}
    elif (folder / "tokenizer.model").exists():
        keys = _of_sentencepiece(folder, pieces)
    else:
        raise ModelError(
            "the folder has neither tokenizer.json nor tokenizer.model",
            "get them, or have transformers' `save_pretrained` write tokenizer.json",
        )
    return {**keys, **special_keys(folder, config, pieces), **template_keys(folder)}


def _scores(folder: Path, tokenizer: TokenizerJson) -> Mapping[str, float] | None:
    path = folder / "tokenizer.model"
    if tokenizer.is_byte_level or not path.exists():
        return None
    model = read_sentencepiece(path)
    return {one.text: one.score for one in model.pieces} if model.is_bpe else None


def _of_sentencepiece(folder: Path, pieces: Pieces) -> Metadata:
    model = read_sentencepiece(folder / "tokenizer.model")
    for number, piece in enumerate(model.pieces):
        pieces.put(number, piece)
    if not model.is_bpe or model.normalizes:
        what = "normalizes text" if model.is_bpe else "is of the kind Unigram, not BPE"
        raise ModelError(f"tokenizer.model {what}", "llama.cpp's tokenizer cannot do that")
    for text in BYTE_TEXTS:
        if pieces.number_of(text) is None:
            raise ModelError(f"tokenizer.model lacks the byte {text}", "get it again")
    for token in _added(folder):
        earlier = next((one for one in model.pieces if one.text == token.text), None)
        if earlier is None or earlier.kind is not PieceKind.UNKNOWN:
            pieces.put(token.number, token.piece)
    settings = _settings(folder)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": settings.flag("add_prefix_space", model.adds_prefix),
        "tokenizer.ggml.add_bos_token": settings.flag("add_bos_token", default=True),
        "tokenizer.ggml.add_eos_token": settings.flag("add_eos_token", default=False),
        **pieces.keys(scores=True),
    }


def _added(folder: Path) -> list[AddedToken]:
    """Return the tokens that were added beside a sentencepiece model, in two files of two times."""
    older = read_json(folder / "added_tokens.json")
    entries: list[object] = [
        {"id": number, "content": text, "special": False} for text, number in older.items()
    ]
    decoder = _settings(folder).within("added_tokens_decoder")
    for number, entry in decoder.items():
        known = number.isdecimal() and len(number) < 10 and isinstance(entry, dict)
        entries.append({**entry, "id": int(number)} if known else None)
    return added_tokens(entries, "tokenizer_config.json")


def _settings(folder: Path) -> Config:
    return Config(read_json(folder / "tokenizer_config.json"), "tokenizer_config.json")
