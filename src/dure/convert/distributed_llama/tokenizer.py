"""The tokens of a `.t` file: their bytes and scores, the tokens that begin and end a text, the template.

Knows the file. Refuses to know llama.cpp. Source: Distributed Llama `src/tokenizer.cpp`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from dure.convert.distributed_llama.headers import HeaderReader
from dure.errors import ModelError

_MAGIC, _OLD_MAGIC = 0x567124, 0x567123
_LARGEST_FILE = 256 << 20  # a vocabulary of 262,144 tokens takes 5 MiB
_MOST_TOKENS = 1 << 20
_MOST_ENDS = 64


class TokenizerKey(IntEnum):
    """What a value in a tokenizer's header means."""

    VERSION = 0
    VOCABULARY = 1
    LONGEST_TOKEN = 2
    BEGIN = 3
    END = 4
    PADDING = 5
    CHAT_END = 6
    TEMPLATE_BYTES = 7
    STOP_BYTES = 8
    ENDS = 9
    ADD_BEGIN = 10


@dataclass(frozen=True)
class TokenizerFile:
    """A `.t` file's contents. begin: its id also says where the special tokens start."""

    name: str
    tokens: Sequence[bytes]
    scores: Sequence[float]
    begin: int
    add_begin: bool
    ends: Sequence[int]
    template: str

    @property
    def regular(self) -> Sequence[bytes]:
        """Return the tokens that text is made of; all others are special."""
        return self.tokens[: self.begin]


def read_tokenizer(path: Path) -> TokenizerFile:
    """Read a `.t` file. Raises ModelError."""
    with path.open("rb") as file:
        reader = HeaderReader(file, path)
        if reader.size > _LARGEST_FILE:
            reader.fail(f"{reader.size} bytes are too many for a tokenizer", "name a .t file")
        magic = reader.integer("the magic number")
        if magic == _OLD_MAGIC:
            return _old(reader)
        if magic != _MAGIC:
            reader.fail(
                "this is no tokenizer of Distributed Llama", "name a .t file of its converter"
            )
        return _current(reader, reader.pairs(frozenset(TokenizerKey)))


def _current(reader: HeaderReader, pairs: Mapping[int, int]) -> TokenizerFile:
    if pairs.get(TokenizerKey.VERSION) != 1:
        reader.fail(
            f"its version is {pairs.get(TokenizerKey.VERSION)}, not 1",
            "convert the tokenizer again, with Distributed Llama's newest converter",
        )
    template = reader.take(max(0, pairs.get(TokenizerKey.TEMPLATE_BYTES, 0)), "the chat template")
    reader.take(max(0, pairs.get(TokenizerKey.STOP_BYTES, 0)), "the chat's stop text")
    n_ends = pairs.get(TokenizerKey.ENDS, 0)
    if n_ends > _MOST_ENDS:
        reader.fail(f"it claims {n_ends} tokens that end a text")
    ends = [pairs[key] for key in (TokenizerKey.END, TokenizerKey.CHAT_END) if key in pairs]
    ends += [reader.integer("a token that ends a text") for _ in range(n_ends)]
    return _with_tokens(
        reader,
        pairs.get(TokenizerKey.VOCABULARY, 0),
        pairs.get(TokenizerKey.BEGIN, -1),
        ends,
        add_begin=pairs.get(TokenizerKey.ADD_BEGIN, 1) == 1,
        template=_text(reader, template),
    )


def _old(reader: HeaderReader) -> TokenizerFile:
    n_tokens, _, begin, end, _ = struct.unpack("<5i", reader.take(20, "the header"))
    return _with_tokens(reader, n_tokens, begin, [end], add_begin=True, template="")


def _text(reader: HeaderReader, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        reader.fail("the chat template is not UTF-8")


def _with_tokens(
    reader: HeaderReader,
    n_tokens: int,
    begin: int,
    ends: Sequence[int],
    *,
    add_begin: bool,
    template: str,
) -> TokenizerFile:
    if not 1 <= n_tokens <= min(_MOST_TOKENS, reader.left // 9):
        reader.fail(f"it claims {n_tokens} tokens, but has {reader.left} bytes for them")
    for token in (begin, *ends):
        if not 0 <= token < n_tokens:
            reader.fail(f"token {token} begins or ends a text, but there are {n_tokens} tokens")
    scores: list[float] = []
    tokens: list[bytes] = []
    for index in range(n_tokens):
        score, length = struct.unpack("<fi", reader.take(8, f"token {index}"))
        if length < 1:
            reader.fail(f"token {index} is {length} bytes long")
        scores.append(score)
        tokens.append(reader.take(length, f"token {index}"))
    if reader.left:
        reader.fail(f"{reader.left} bytes follow the last token")
    return TokenizerFile(reader.name, tokens, scores, begin, add_begin, ends, template)


def check_fits(tokenizer: TokenizerFile, vocabulary: int, model: str) -> None:
    """Check that a model of this many embeddings has one for every token. Raises ModelError."""
    if len(tokenizer.tokens) > vocabulary:
        raise ModelError(
            f"{tokenizer.name} has {len(tokenizer.tokens)} tokens but {model} only {vocabulary}",
            "name the tokenizer of this model with --tokenizer",
        )
