"""Conversations that are read in the test's own process."""

from __future__ import annotations

from functools import partial

from dure.chat.reading import TextTools, prepared_chat
from dure.chat.turn import Conversations
from dure.model.vocabulary import Vocabulary


def conversations(vocabulary: Vocabulary, *, template: str | None = None) -> Conversations:
    """Return the conversations with a model. template: instead of its own."""
    tools = TextTools.of(vocabulary, template)
    return Conversations(vocabulary, partial(prepared_chat, tools))
