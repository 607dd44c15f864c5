"""What a text completion must follow: a grammar of the caller's, or one made of a JSON schema."""

from __future__ import annotations

import asyncio
from typing import Any

from dure.chat import json_schema
from dure.chat.caller_grammar import check_grammar, check_rules
from dure.chat.gbnf import read_gbnf
from dure.chat.parameter_errors import blaming
from dure.errors import ParameterError
from dure.generate.request import Grammar
from dure.model.vocabulary import Vocabulary

__all__ = ["grammar_of"]


async def grammar_of(
    vocabulary: Vocabulary, gbnf: str | None, schema: dict[str, Any] | None
) -> Grammar | None:
    """Return what a continuation must follow, None if it is free.

    Raises ParameterError if both are given, or one cannot be followed.
    """
    if schema is not None and gbnf:
        raise ParameterError("grammar", "grammar and json_schema exclude each other", "give one")
    if schema is not None:
        return await asyncio.to_thread(_of_schema, schema)
    if gbnf:
        return await asyncio.to_thread(_checked, gbnf, vocabulary)
    return None


def _of_schema(schema: dict[str, Any]) -> Grammar:
    with blaming("json_schema"):
        gbnf = json_schema.grammar_of(schema)
        check_rules(read_gbnf(gbnf))
    return Grammar(gbnf)


def _checked(gbnf: str, vocabulary: Vocabulary) -> Grammar:
    with blaming("grammar"):
        check_grammar(vocabulary, gbnf)
    return Grammar(gbnf)
