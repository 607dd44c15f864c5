"""The text that a model is calibrated with, as tokens in chunks: from files, or from chats.

Refuses to know what is computed of it. Source of the chunks: llama.cpp, `tools/imatrix`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dure.chat.turn import Conversations
from dure.engine.arrays import Ints
from dure.errors import UsageError
from dure.evaluate.user_text import read_text

__all__ = ["LEAST_CHUNK", "chat_tokens", "chunks_of", "text_tokens"]

LEAST_CHUNK = 16  # tokens


def chunks_of(tokens: Sequence[int], size: int, begin: int | None, most: int | None) -> Ints:
    """Cut a text into chunks: int32 [n_chunks, size]; what is left at its end is not used.

    begin: takes the place of each chunk's first token, if the model wants a text to begin with it.
    most: chunks. Raises UsageError if there is not one.
    """
    if size < LEAST_CHUNK:
        raise UsageError(f"--ctx {size} is too short a chunk", f"give {LEAST_CHUNK} or more")
    if most is not None and most < 1:
        raise UsageError(f"--chunks {most}", "give a number above 0")
    n = min(len(tokens) // size, most or len(tokens))
    if not n:
        raise UsageError(
            f"the text has {len(tokens)} tokens, less than one chunk of {size}",
            "give more text, or a smaller --ctx",
        )
    chunks = np.array(tokens[: n * size], np.int32).reshape(n, size)
    if begin is not None:
        chunks[:, 0] = begin
    return chunks


def text_tokens(tokenize: Callable[[str], list[int]], files: Sequence[Path]) -> list[int]:
    """Return the tokens of plain texts, one after the other. Raises ResourceError or UsageError."""
    return [token for file in files for token in tokenize(read_text(file, "--data"))]


def chat_tokens(conversations: Conversations, files: Sequence[Path]) -> list[int]:
    """Return the tokens of chats, each written as the model's template writes it.

    A file has a chat on each line: an object whose `messages` are as in OpenAI's API, or the list of them.
    Raises ResourceError or UsageError, which names the line.
    """
    tokens: list[int] = []
    for file in files:
        for number, messages in _chats(file):
            try:
                tokens += conversations.turn(messages, add_generation=False).prompt
            except UsageError as error:
                raise UsageError(f"{file} line {number}: {error.problem}", error.cure) from None
    return tokens


def _chats(file: Path) -> Iterator[tuple[int, list[Any]]]:
    for number, line in enumerate(read_text(file, "--from-chats").split("\n"), 1):
        if not line.strip():
            continue
        try:
            chat = json.loads(line)
        except (ValueError, RecursionError):
            chat = None
        messages = chat.get("messages") if isinstance(chat, dict) else chat
        if not isinstance(messages, list):
            raise UsageError(
                f"{file} line {number} is no chat",
                'write one on each line: {"messages": [{"role": "user", "content": "..."}, ...]}',
            )
        yield number, messages
