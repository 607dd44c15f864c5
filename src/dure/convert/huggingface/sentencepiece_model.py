"""Reads sentencepiece's tokenizer.model: a protobuf message, of which a few fields matter.

Knows that message. Refuses to know GGUF. Source: sentencepiece `src/sentencepiece_model.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dure.convert.huggingface.json_file import MOST_BYTES
from dure.convert.huggingface.pieces import PieceKind, TokenPiece
from dure.errors import ModelError
from dure.model.gguf.values import one_line

__all__ = ["SentencepieceModel", "read_sentencepiece"]

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = {
    1: PieceKind.NORMAL,
    2: PieceKind.UNKNOWN,
    3: PieceKind.CONTROL,
    4: PieceKind.USER_DEFINED,
    5: PieceKind.UNUSED,
    6: PieceKind.BYTE,
}
_BPE = 2


@dataclass(frozen=True)
class SentencepieceModel:
    """What is in the file. adds_prefix: a blank is put before the text."""

    pieces: tuple[TokenPiece, ...]
    is_bpe: bool
    adds_prefix: bool
    normalizes: bool


def read_sentencepiece(path: Path) -> SentencepieceModel:
    """Read a file. Raises ModelError if it is damaged."""
    name = one_line(path.name)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        return _model(data)
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise ModelError(f"{name} is no sentencepiece model: {error}", "get it again") from None


def _model(data: bytes) -> SentencepieceModel:
    pieces: list[TokenPiece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for field, value in _fields(data):
        if field in (_PIECES, _TRAINER, _NORMALIZER) and not isinstance(value, bytes):
            raise ValueError(f"field {field} is no message")
        if field == _PIECES:
            pieces.append(_piece(dict(_fields(bytes(value)))))
        elif field == _TRAINER:
            trainer = dict(_fields(bytes(value)))
        elif field == _NORMALIZER:
            normalizer = dict(_fields(bytes(value)))
    if not pieces:
        raise ValueError("it has no pieces")
    return SentencepieceModel(
        tuple(pieces),
        is_bpe=trainer.get(3, 1) == _BPE,
        adds_prefix=normalizer.get(3, 1) != 0,
        normalizes=bool(normalizer.get(2)) or normalizer.get(4, 1) != 0,
    )


def _piece(fields: dict[int, int | bytes]) -> TokenPiece:
    text, score, kind = fields.get(1, b""), fields.get(2, b"\0\0\0\0"), fields.get(3, 1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or kind not in _KINDS:
        raise ValueError("a piece makes no sense")
    assert isinstance(kind, int)
    return TokenPiece(text.decode("utf-8"), _KINDS[kind], struct.unpack("<f", score)[0])


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message: numbers, and bytes of all else."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            number, position = _varint(data, position)
            yield field, number
            continue
        if kind == _BYTES:
            size, position = _varint(data, position)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"byte {position} begins a field of kind {kind}")
        if size > len(data) - position:
            raise ValueError(f"a field ends at byte {position + size} of {len(data)}")
        yield field, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise ValueError(f"the number at byte {position} does not end")
