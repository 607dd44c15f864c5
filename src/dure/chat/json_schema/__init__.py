"""Turns JSON schemas into grammars, and checks texts against them.

`check_schema` names what no grammar can express, `grammar_of` writes the grammar, `validate` checks an
answer. Refuses to know chats and models.
"""

from __future__ import annotations

from typing import Any

from dure.chat.json_schema.converter import Converter
from dure.chat.json_schema.rules import Rules
from dure.chat.json_schema.validate import check_well_formed, validate

__all__ = ["Rules", "check_schema", "grammar_of", "object_rule", "schema_rule", "validate"]


def check_schema(schema: Any) -> None:
    """Raise UsageError naming the first unsupported keyword and its JSON pointer."""
    schema_rule(Rules(), schema)


def grammar_of(schema: Any, *, strict: bool = True) -> str:
    """Return a GBNF grammar of the JSON texts that follow the schema; its first rule is `root`.

    strict: raise UsageError for what no grammar can express; else allow any JSON in its place.
    """
    rules = Rules()
    return rules.text(schema_rule(rules, schema, strict=strict))


def schema_rule(rules: Rules, schema: Any, *, strict: bool = True) -> str:
    """Add the rules of a schema to others and return the name of its first. Raises as `grammar_of`."""
    check_well_formed(schema)
    return Converter(rules, schema, strict=strict).value(schema)


def object_rule(rules: Rules) -> str:
    """Add the rules of any JSON object and return the name of the first."""
    return Converter(rules, {}).any_object()
