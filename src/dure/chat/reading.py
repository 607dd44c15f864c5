"""The functions that read what a client wrote, as `isolation` runs them.

Each gives it to library code that was not made for hostile input: a tokenizer, a template, regular
expressions, a grammar's parser. Refuses to know processes and HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from dure.chat import json_schema
from dure.chat.answer_reader import Promise
from dure.chat.caller_grammar import checked_grammar, checked_rules
from dure.chat.format import ChatFormatter, PreparedChat, template_error
from dure.chat.parameter_errors import blaming
from dure.chat.task import ChatTask
from dure.generate.request import Grammar
from dure.model.vocabulary import Vocabulary

__all__ = [
    "TextTools",
    "broken_promise",
    "caller_grammar",
    "pair_of",
    "prepared_chat",
    "schema_grammar",
    "tokens_of",
]


@dataclass(frozen=True)
class TextTools:
    """What reading needs of one model. formatter: None if it has no chat template."""

    vocabulary: Vocabulary
    formatter: ChatFormatter | None

    @classmethod
    def of(cls, vocabulary: Vocabulary, template: str | None = None) -> Self:
        """Return the tools of a model. template: instead of its own."""
        can_chat = template or vocabulary.has_chat_template
        formatter = ChatFormatter(vocabulary, default_template=template) if can_chat else None
        return cls(vocabulary, formatter)


def tokens_of(tools: TextTools, text: str, special: bool, add_bos: bool) -> list[int]:
    """Return a text's tokens; see `Vocabulary.tokenize`."""
    return tools.vocabulary.tokenize(text, special=special, add_bos=add_bos)


def pair_of(tools: TextTools, query: str, document: str) -> list[int]:
    """Return what a reranker reads; see `Vocabulary.pair`."""
    return tools.vocabulary.pair(query, document)


def prepared_chat(tools: TextTools, task: ChatTask) -> PreparedChat:
    """Return what an answer to a conversation needs. Raises UsageError naming what cannot be done."""
    if tools.formatter is None:
        raise template_error(tools.vocabulary.name)
    return tools.formatter.prepare(task)


def caller_grammar(tools: TextTools, gbnf: str) -> Grammar:
    """Return a client's own grammar, checked. Raises ParameterError."""
    with blaming("grammar"):
        return Grammar(checked_grammar(tools.vocabulary, gbnf))


def schema_grammar(_tools: TextTools, schema: dict[str, Any]) -> Grammar:
    """Return the grammar of a text completion's schema. Raises ParameterError."""
    with blaming("json_schema"):
        return Grammar(checked_rules(json_schema.grammar_of(schema)))


def broken_promise(_tools: TextTools, promise: Promise) -> str | None:
    """Return in what a part of an answer does not follow its schema; None if it does."""
    try:
        json_schema.validate(promise.schema, promise.text)
    except ValueError as error:
        return f"the model's answer does not follow {promise.rule}: {error}"
    return None
