"""A GGUF's vocabulary as a tokenizer of transformers that divides text as llama.cpp does.

The inverse of `dure.convert.huggingface.tokenizer_json`: what is trained on is what will be served. So text
is not normalized (NFC), even if the model's own tokenizer.json does so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from dure.convert.huggingface.pieces import PieceKind
from dure.convert.huggingface.pre_tokenizer import pre_tokenizer_steps
from dure.errors import ModelError
from dure.model.gguf import GgufFile
from dure.model.gguf.values import one_line
from dure.model.vocabulary import Vocabulary

__all__ = ["torch_tokenizer"]

Json = dict[str, Any]
_BLANK = "▁"
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unk": 0}
"""What llama.cpp takes if a sentencepiece vocabulary does not say."""


def torch_tokenizer(gguf: GgufFile, vocabulary: Vocabulary) -> Any:
    """Return a `PreTrainedTokenizerFast`. Raises ModelError for a kind that dure does not import."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    reader = _Reader(gguf)
    description = reader.description(vocabulary)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        clean_up_tokenization_spaces=False,
        model_max_length=gguf.int(f"{gguf.architecture}.context_length"),
        **reader.roles(),
    )
    if templates := _templates(gguf):
        tokenizer.chat_template = templates
    return tokenizer


def _templates(gguf: GgufFile) -> str | dict[str, str] | None:
    key = "tokenizer.chat_template"
    named = {
        name.removeprefix(f"{key}."): str(value.value)
        for name, value in gguf.metadata.items()
        if name.startswith(f"{key}.")
    }
    default = gguf.str(key, "")
    if named and default:
        return {"default": default, **named}
    return default or None


class _Reader:
    """The tokens of a file. Raises ModelError if they make no sense."""

    def __init__(self, gguf: GgufFile) -> None:
        self._gguf, self._kind = gguf, gguf.str("tokenizer.ggml.model", "")
        self._texts: Sequence[str] = self._listed("tokens")
        kinds = self._listed("token_type")
        self._kinds = kinds or [PieceKind.NORMAL] * len(self._texts)

    def description(self, vocabulary: Vocabulary) -> Json:
        """Return what tokenizer.json says."""
        if self._kind not in ("gpt2", "llama"):
            self._refuse(f"its tokenizer is of the kind {one_line(repr(self._kind))}")
        vocab = {
            text: number
            for number, text in enumerate(self._texts)
            if self._kinds[number] != PieceKind.UNUSED
        }
        own = self._byte_level(vocab) if self._kind == "gpt2" else self._sentencepiece(vocab)
        return {
            "version": "1.0",
            "added_tokens": list(self._added()),
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": self._around(vocabulary),
            **own,
        }

    def roles(self) -> dict[str, str]:
        """Return the texts of the special tokens."""
        usual = _SENTENCEPIECE_IDS if self._kind == "llama" else {}
        numbers = {
            role: self._gguf.int(f"tokenizer.ggml.{name}_token_id", usual.get(role, -1))
            for role, name in _ROLES.items()
        }
        return {
            f"{role}_token": self._texts[number]
            for role, number in numbers.items()
            if 0 <= number < len(self._texts)
        }

    def _listed(self, key: str) -> list[Any]:
        value = self._gguf.metadata.get(f"tokenizer.ggml.{key}")
        return list(value.value) if value is not None else []

    def _refuse(self, what: str) -> NoReturn:
        raise ModelError(
            f"{one_line(self._gguf.paths[0].name)}: {what}, which dure cannot bring back to torch",
            "name the Hugging Face folder that the file was made of",
        )

    def _added(self) -> Iterator[Json]:
        for number, text in enumerate(self._texts):
            kind = self._kinds[number]
            if kind in (PieceKind.CONTROL, PieceKind.UNKNOWN, PieceKind.USER_DEFINED):
                flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
                special = kind != PieceKind.USER_DEFINED
                yield {"id": number, "content": text, **flags, "special": special}

    def _byte_level(self, vocab: dict[str, int]) -> Json:
        name = self._gguf.str("tokenizer.ggml.pre", "default")
        found = pre_tokenizer_steps(name)
        if found is None:
            self._refuse(f"it divides text by the rules {one_line(repr(name))}")
        steps, ignores = found
        merges = [merge.split(" ", 1) for merge in self._listed("merges")]
        return {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": {"type": "ByteLevel", **steps[-1]},
            "model": _bpe(vocab, merges, ignores=ignores),
        }

    def _sentencepiece(self, vocab: dict[str, int]) -> Json:
        prefix = self._gguf.bool("tokenizer.ggml.add_space_prefix", True)
        blank = {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}
        first = [{"type": "Prepend", "prepend": _BLANK}] if prefix else []
        decoding: list[Json] = [
            {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]
        if prefix:
            decoding.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        unknown = self.roles().get("unk_token")
        return {
            "normalizer": {"type": "Sequence", "normalizers": [*first, blank]},
            "decoder": {"type": "Sequence", "decoders": decoding},
            "model": _bpe(vocab, self._scored_merges(vocab), unknown=unknown, bytes_=True),
        }

    def _scored_merges(self, vocab: dict[str, int]) -> list[list[str]]:
        """Return the pairs that make a token, the highest score first, as llama.cpp merges them."""
        scores = self._listed("scores") or [0.0] * len(self._texts)
        whole = (PieceKind.NORMAL, PieceKind.BYTE)
        plain = {text: n for text, n in vocab.items() if self._kinds[n] in whole}
        ordered = sorted(plain, key=lambda text: (-scores[plain[text]], plain[text]))
        return [
            [text[:place], text[place:]]
            for text in ordered
            for place in range(1, len(text))
            if text[:place] in plain and text[place:] in plain
        ]

    def _around(self, vocabulary: Vocabulary) -> Json | None:
        """Return the step that puts tokens before and after a text."""
        empty = vocabulary.tokenize("")
        begin = [vocabulary.begin] if vocabulary.begin is not None else []
        end = empty[len(begin) :]
        if not begin and not end:
            return None
        special = {self._texts[n]: n for n in (*begin, *end)}
        parts = [{"SpecialToken": {"id": self._texts[n], "type_id": 0}} for n in begin]
        parts.append({"Sequence": {"id": "A", "type_id": 0}})
        parts += [{"SpecialToken": {"id": self._texts[n], "type_id": 0}} for n in end]
        return {
            "type": "TemplateProcessing",
            "single": parts,
            "pair": [*parts, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                text: {"id": text, "ids": [number], "tokens": [text]}
                for text, number in special.items()
            },
        }


def _bpe(
    vocab: dict[str, int],
    merges: list[list[str]],
    *,
    ignores: bool = False,
    unknown: str | None = None,
    bytes_: bool = False,
) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": bytes_,
        "byte_fallback": bytes_,
        "ignore_merges": ignores,
        "vocab": vocab,
        "merges": merges,
    }
