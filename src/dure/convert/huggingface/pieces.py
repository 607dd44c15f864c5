"""The tokens of a vocabulary: texts, scores and kinds, one for each row of the embeddings.

Knows what llama.cpp demands of them. Refuses to know where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from dure.convert.model import Metadata
from dure.errors import ModelError
from dure.model.gguf import ValueKind, array_of
from dure.model.gguf.values import one_line

__all__ = ["AddedToken", "PieceKind", "Pieces", "TokenPiece", "added_tokens"]


class PieceKind(IntEnum):
    """What a token is for. Source: llama.cpp `llama.h`, `llama_token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class TokenPiece:
    """A token. score: higher ones are merged first; of no meaning in vocabularies with a list of merges."""

    text: str
    kind: PieceKind = PieceKind.NORMAL
    score: float = 0.0


@dataclass(frozen=True)
class AddedToken:
    """A token that was added to a vocabulary. special: it steers, and is no text."""

    number: int
    text: str
    special: bool

    @property
    def piece(self) -> TokenPiece:
        """Return the token. Some that steer are not marked so: Qwen's for filling in, Gemma's unused."""
        steers = (
            self.special
            or (self.text.startswith("<|") and self.text.endswith("|>"))
            or (self.text.startswith("<\uff5c") and self.text.endswith("\uff5c>"))
            or (self.text.startswith("<unused") and self.text.endswith(">"))
            or self.text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        )
        if steers:
            return TokenPiece(self.text, PieceKind.CONTROL, _ADDED_SCORE)
        return TokenPiece(self.text.replace("▁", " "), PieceKind.USER_DEFINED, _ADDED_SCORE)


_ADDED_SCORE = -1e9  # below all scores of merges


class Pieces:
    """All tokens, by number. n: how many there will be; those without a text are unused."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._pieces: dict[int, TokenPiece] = {}
        self._numbers: dict[str, int] = {}

    def put(self, number: int, piece: TokenPiece) -> None:
        """Set a token; an earlier one of this number or text gives way. Raises ModelError."""
        if not 0 <= number < self._n:
            raise ModelError(
                f"token {one_line(repr(piece.text))} has the number {number}, and the model has "
                f"{self._n} embeddings",
                "get the tokenizer of this very model",
            )
        if number in self._pieces:
            del self._numbers[self._pieces[number].text]
        if piece.text in self._numbers:
            del self._pieces[self._numbers[piece.text]]
        self._pieces[number], self._numbers[piece.text] = piece, number

    def number_of(self, text: str) -> int | None:
        """Return the number of a token, None if there is none of this text."""
        return self._numbers.get(text)

    def text_of(self, number: int) -> str | None:
        """Return the text of a token, None if there is none of this number."""
        piece = self._pieces.get(number)
        return piece.text if piece else None

    def keys(self, *, scores: bool) -> Metadata:
        """Return the lists of a GGUF, with scores or without."""
        pieces = [self._pieces.get(number) or self._unused(number) for number in range(self._n)]
        keys: Metadata = {
            "tokenizer.ggml.tokens": array_of(ValueKind.STRING, [one.text for one in pieces]),
            "tokenizer.ggml.token_type": array_of(ValueKind.INT32, [one.kind for one in pieces]),
        }
        if scores:
            values = array_of(ValueKind.FLOAT32, [one.score for one in pieces])
            keys = {**keys, "tokenizer.ggml.scores": values}
        return keys

    def _unused(self, number: int) -> TokenPiece:
        text = f"[PAD{number}]"
        while text in self._numbers:
            text = f"[{text}]"
        return TokenPiece(text, PieceKind.UNUSED, _ADDED_SCORE)


def added_tokens(entries: Sequence[object], name: str) -> list[AddedToken]:
    """Read a list of added tokens. name: of the file. Raises ModelError."""
    found = []
    for entry in entries:
        values = entry if isinstance(entry, dict) else {}
        number, text, special = (values.get(key) for key in ("id", "content", "special"))
        if type(number) is not int or not isinstance(text, str) or not text:
            raise ModelError(f"{name} has an added token without number or text", "get it again")
        found.append(AddedToken(number, text, special is True))
    return found
