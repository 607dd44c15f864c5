"""JSON schemas: what they ask for as a grammar, and whether a text follows them.

`check_schema` names what no grammar can say, `grammar_of` writes the grammar, `validate` checks an
answer. Refuses to know chats and models.
"""

from __future__ import annotations

from typing import Any

from dure.chat.json_schema.converter import Converter
from dure.chat.json_schema.rules import Rules
from dure.chat.json_schema.validate import check_well_formed, validate

__all__ = ["Rules", "check_schema", "grammar_of", "object_rule", "schema_rule", "validate"]


def check_schema(schema: Any) -> None:
    """Raises UsageError naming the keyword that is not supported, and its JSON pointer."""
    schema_rule(Rules(), schema)


def grammar_of(schema: Any, *, strict: bool = True) -> str:
    """A GBNF grammar, its first rule `root`, of texts that are JSON and follow the schema.

    strict: raise UsageError for what no grammar can say; else any JSON is allowed in its place.
    """
    rules = Rules()
    return rules.text(schema_rule(rules, schema, strict=strict))


def schema_rule(rules: Rules, schema: Any, *, strict: bool = True) -> str:
    """Write the rules of a schema among others; returns the name of its own. Raises as `grammar_of`."""
    check_well_formed(schema)
    return Converter(rules, schema, strict=strict).value(schema)


def object_rule(rules: Rules) -> str:
    """The same for any JSON object."""
    return Converter(rules, {}).any_object()
