"""Runs one turn of a conversation without a server: messages to a prompt, tokens to parsed pieces.

Renders, limits and parses as the server does. Refuses to know how tokens are generated and shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dure.chat.answer_reader import AnswerReader
from dure.chat.format import PreparedChat
from dure.chat.formats.base import AnyTool
from dure.chat.parser import Parsed
from dure.chat.task import ChatTask, GenerationOptions
from dure.chat.thinking import Think, asked_to_think
from dure.generate.request import Token
from dure.model.vocabulary import Vocabulary

__all__ = ["ChatTurn", "Conversations"]


class Conversations:
    """Begins turns of conversations with one model.

    prepare: makes a prompt of a task, here or in another process.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        prepare: Callable[[ChatTask], PreparedChat],
        think: Think = "auto",
    ) -> None:
        self._vocabulary, self._prepare, self._think = vocabulary, prepare, think

    def turn(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation: bool = True
    ) -> ChatTurn:
        """Begin the answer to messages, which are as in OpenAI's chat API.

        add_generation: end the prompt where the answer begins; without it, after the last message.
        No tools are offered; a model that calls one all the same is read as calling it.
        Raises UsageError if the template refuses the messages, or exceeds its limits.
        """
        task = asked_to_think(ChatTask(messages, add_generation=add_generation), self._think)
        prepared = replace(self._prepare(task), tools=AnyTool())
        reader = AnswerReader.of_chat(
            lambda token, special: self._vocabulary.piece(token, special=special),
            prepared,
            GenerationOptions(),
        )
        return ChatTurn(prepared, reader)


class ChatTurn:
    """A prompt, and the reader of its answer: `feed` each generated token, then `finish`.

    unmet: why the model does not think as it was asked to.
    """

    def __init__(self, prepared: PreparedChat, reader: AnswerReader) -> None:
        self.prompt, self.return_points = prepared.prompt, prepared.return_points
        self._reader, self.unmet = reader, list(prepared.unmet.values())

    def feed(self, token: int) -> list[Parsed]:
        """Return the pieces that one more token decides: content, reasoning, tool calls."""
        return list(self._reader.feed(Token("", token)))

    def finish(self) -> list[Parsed]:
        """Return the pieces of the text that was held back. Call it once, at the end."""
        return list(self._reader.finish())
