"""tokenizer.json as a vocabulary: byte-level tokenizers, and those that write a blank as ▁.

Knows the library `tokenizers`' format. Refuses to know special tokens' roles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, NoReturn

from dure.convert.huggingface.config import Config
from dure.convert.huggingface.pieces import AddedToken, PieceKind, Pieces, TokenPiece, added_tokens
from dure.convert.huggingface.pre_tokenizer import pre_tokenizer_name
from dure.convert.huggingface.special_tokens import special_text
from dure.convert.model import Metadata
from dure.errors import ModelError
from dure.model.gguf import ValueKind, array_of
from dure.model.gguf.values import one_line

__all__ = ["BYTE_TEXTS", "TokenizerJson"]

BYTE_TEXTS = tuple(f"<0x{byte:02X}>" for byte in range(256))
_BLANK = "▁"
Merge = tuple[str, str]


@dataclass(frozen=True)
class TokenizerJson:
    """A tokenizer.json that was read. Raises ModelError in all methods if it makes no sense."""

    values: Mapping[str, Any]

    def added(self) -> list[AddedToken]:
        """Return the tokens that were added to the vocabulary."""
        entries = self.values.get("added_tokens", [])
        return added_tokens(entries if isinstance(entries, list) else [None], "tokenizer.json")

    @property
    def is_byte_level(self) -> bool:
        """Whether it merges bytes; else it merges characters, and writes a blank as ▁."""
        return self._model.get("byte_fallback") is not True

    def fill(self, pieces: Pieces, scores: Mapping[str, float] | None) -> Metadata:
        """Put all tokens into `pieces` and return what a GGUF says of the tokenizer beside them.

        scores: of the sentencepiece model that it was made from, if that is there; for no byte-level one.
        """
        vocabulary, merges = self._vocabulary(), self._merges()
        if self.is_byte_level:
            keys, scores = self._byte_level(merges), {}
        else:
            self._check_bytes(vocabulary)
            keys = {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.pre": "default",
                "tokenizer.ggml.add_space_prefix": self._adds_prefix(),
            }
            scores = self._scores(vocabulary, merges) if scores is None else scores
        unknown = None if self.is_byte_level else self._model.get("unk_token")
        for text, number in vocabulary.items():
            is_byte = not self.is_byte_level and text in _BYTES
            kind = PieceKind.BYTE if is_byte else PieceKind.NORMAL
            pieces.put(number, TokenPiece(text, kind, scores.get(text, 0.0)))
        for token in self.added():
            piece = token.piece
            if token.text == unknown:
                piece = TokenPiece(piece.text, PieceKind.UNKNOWN, piece.score)
            pieces.put(token.number, piece)
        return {**keys, **pieces.keys(scores=not self.is_byte_level)}

    def _byte_level(self, merges: Sequence[Merge]) -> Metadata:
        name = pre_tokenizer_name(self.values, lambda: self._all_merged(merges))
        self._check_normalizer(["NFC"])
        if any(" " in part for pair in merges for part in pair):
            self._fail("its merges have blanks, which a GGUF puts between two texts")
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": name,
            "tokenizer.ggml.merges": array_of(ValueKind.STRING, [" ".join(m) for m in merges]),
        }

    def _all_merged(self, merges: Sequence[Merge]) -> bool:
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        texts = self._vocabulary().keys() - {token.text for token in self.added()}
        return all(len(_merged(list(text), ranks)) == 1 for text in texts)

    def ends(self, settings: Config) -> Metadata:
        """Return whether a text begins with bos and ends with eos. settings: tokenizer_config.json.

        If these say so, they count; else the post-processor does, as in transformers 5.
        """
        roles = [special_text(settings, role) for role in ("bos", "eos")]
        if settings.has("add_bos_token") or settings.has("add_eos_token"):
            flags = [settings.flag(f"add_{role}_token", default=False) for role in ("bos", "eos")]
        else:
            ids = self._added_around()
            at = ids[:1], ids[-1:]
            flags = [
                role is not None and [role] == one for role, one in zip(roles, at, strict=True)
            ]
            if sum(one is not None for one in ids) != sum(flags):
                self._fail("its post_processor adds tokens that are neither bos nor eos")
        return {
            f"tokenizer.ggml.add_{role}_token": flag and text is not None
            for role, flag, text in zip(("bos", "eos"), flags, roles, strict=True)
        }

    def _added_around(self) -> list[str | None]:
        """Return what the post-processor makes of one text: None stands for the text, others for tokens."""
        for step in self._steps("post_processor"):
            match step:
                case {"type": "TemplateProcessing", "single": [*parts]}:
                    return [_special(one) for one in parts]
                case {"type": "ByteLevel"}:
                    pass
                case _:
                    self._fail(f"its post_processor is {one_line(repr(step.get('type')))}")
        return []

    @property
    def _model(self) -> Mapping[str, Any]:
        model = self.values.get("model")
        if not isinstance(model, dict):
            self._fail("it has no model", "get it again")
        if model.get("type", "BPE") != "BPE":
            self._fail(f"it is of the kind {one_line(repr(model['type']))}, not BPE")
        return model

    def _fail(self, what: str, cure: str = "llama.cpp's tokenizer cannot do that") -> NoReturn:
        raise ModelError(f"tokenizer.json: {what}", cure)

    def _vocabulary(self) -> Mapping[str, int]:
        vocabulary = self._model.get("vocab")
        if not isinstance(vocabulary, dict) or not vocabulary:
            self._fail("it has no vocabulary", "get it again")
        if not all(type(one) is int for one in vocabulary.values()):
            self._fail("its vocabulary has tokens without numbers", "get it again")
        for byte, text in enumerate(BYTE_TEXTS[:128]):
            if vocabulary.get(text, -1) == vocabulary.get(chr(byte)):
                vocabulary = {one: number for one, number in vocabulary.items() if one != text}
        if len(set(vocabulary.values())) < len(vocabulary):
            self._fail("two tokens of its vocabulary have one number", "get it again")
        return vocabulary

    def _merges(self) -> list[Merge]:
        """Return the merges: pairs, which older versions write with a blank between."""
        merges = self._model.get("merges")
        if not isinstance(merges, list) or not all(isinstance(one, str | list) for one in merges):
            self._fail("it has no merges", "get it again")
        pairs = [tuple(one.split(" ") if isinstance(one, str) else one) for one in merges]
        vocabulary = self._vocabulary()
        for pair in pairs:
            if len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
                self._fail(f"a merge is {one_line(repr(pair))}, not two texts", "get it again")
            if not all(text in vocabulary for text in (*pair, "".join(pair))):
                shown = one_line(repr(pair))
                self._fail(f"the merge {shown} is of texts that are no tokens", "get it again")
        return pairs

    def _check_normalizer(self, allowed: Sequence[str]) -> None:
        for step in self._steps("normalizer"):
            if step.get("type") not in allowed:
                self._fail(f"it normalizes text by {one_line(repr(step.get('type')))}")

    def _adds_prefix(self) -> bool:
        """Whether a blank is put before the text; check that nothing else is done to it."""
        adds = False
        for step in self._steps("normalizer"):
            match step:
                case {"type": "Prepend", "prepend": "▁"}:
                    adds = True
                case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                    pass
                case _:
                    self._fail(f"it normalizes text by {one_line(repr(step))}")
        for step in self._steps("pre_tokenizer"):
            match step:
                case {"type": "Metaspace", "replacement": "▁"}:
                    self._check_metaspace(step)
                    adds = step.get("prepend_scheme", "always") != "never"
                    adds = adds and step.get("add_prefix_space", True) is True
                case {"type": "Split", "pattern": {"String": " "}}:
                    pass  # no blank is left
                case _:
                    self._fail(f"it divides text by {one_line(repr(step))}")
        return adds

    def _check_metaspace(self, step: Mapping[str, Any]) -> None:
        divides = step.get("split", True)
        if divides and any(_BLANK in text[1:] for text in self._vocabulary()):
            self._fail("it divides text at blanks, and has tokens with blanks within")

    def _check_bytes(self, vocabulary: Mapping[str, int]) -> None:
        for byte, text in enumerate(BYTE_TEXTS):  # Gemma's has the tab itself for <0x09>
            if text not in vocabulary and not (byte < 128 and chr(byte) in vocabulary):
                self._fail(f"its vocabulary lacks the byte {text}", "get it again")

    def _scores(self, vocabulary: Mapping[str, int], merges: Sequence[Merge]) -> dict[str, float]:
        """Return a score for each token, such that llama.cpp merges what the list of merges says, in order.

        llama.cpp merges any two tokens whose texts together are a token, the highest score first. So the
        list must name all of these pairs, those that make one token together.
        """
        added = {token.text for token in self.added()}  # cut out of a text before it is merged
        plain = [pair for pair in merges if added.isdisjoint((*pair, "".join(pair)))]
        made = [text for text, _ in groupby("".join(pair) for pair in plain)]
        texts, pairs = vocabulary.keys() - added, set(plain)
        if len(set(made)) < len(made) or any(
            pair not in pairs for text in texts for pair in _halves(text, texts)
        ):
            self._fail("its merges are not all that its vocabulary allows, token by token")
        return {text: -float(rank) for rank, text in enumerate(made)}

    def _steps(self, key: str) -> list[Mapping[str, Any]]:
        """Return the steps of a part of the tokenizer, none if it has no such part."""
        entry = self.values.get(key)
        if entry is None:
            return []
        steps = [entry]
        if isinstance(entry, dict) and entry.get("type") == "Sequence":
            steps = next((entry[one] for one in _SEQUENCES if one in entry), [])
        if not isinstance(steps, list) or not all(isinstance(one, dict) for one in steps):
            self._fail(f"its {key} makes no sense", "get it again")
        return steps


_SEQUENCES = ("normalizers", "pretokenizers", "processors")
_BYTES = frozenset(BYTE_TEXTS)


def _special(entry: object) -> str | None:
    """Return the token that a post-processor adds, None for the text itself."""
    special = entry.get("SpecialToken") if isinstance(entry, dict) else None
    text = special.get("id") if isinstance(special, dict) else None
    return text if isinstance(text, str) else None


def _merged(parts: list[str], ranks: Mapping[Merge, int]) -> list[str]:
    """Return what merges make of characters, the first of the list before the others."""
    while True:
        known = [pair for pair in pairwise(parts) if pair in ranks]
        if not known:
            return parts
        place = list(pairwise(parts)).index(min(known, key=ranks.__getitem__))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def _halves(text: str, texts: Set[str]) -> Iterator[Merge]:
    for place in range(1, len(text)):
        pair = text[:place], text[place:]
        if pair[0] in texts and pair[1] in texts:
            yield pair
