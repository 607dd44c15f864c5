"""What a text completion must follow: a grammar of the caller's, or one made of a JSON schema."""

from __future__ import annotations

from typing import Any

from dure.chat.reading import TextTools, caller_grammar, schema_grammar
from dure.errors import ParameterError
from dure.generate.request import Grammar
from dure.isolation import Isolation

__all__ = ["grammar_of"]


async def grammar_of(
    texts: Isolation[TextTools], gbnf: str | None, schema: dict[str, Any] | None
) -> Grammar | None:
    """Return what a continuation must follow, None if it is free.

    Raises ParameterError if both are given, or one cannot be followed.
    """
    if schema is not None and gbnf:
        raise ParameterError("grammar", "grammar and json_schema exclude each other", "give one")
    if schema is not None:
        return await texts.called(schema_grammar, schema, is_long=True)
    if gbnf:
        return await texts.called(caller_grammar, gbnf, is_long=True)
    return None
