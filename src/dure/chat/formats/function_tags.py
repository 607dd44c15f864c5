"""Formats of calls with a tag per argument, as Qwen3-Coder, Qwen3.5 and Seed-OSS write them.

Knows their syntax and grammar. Refuses to know templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dure.chat.answer_grammar import prefixes_of
from dure.chat.call_reader import CallReader
from dure.chat.formats.json_calls import SPACE, JsonCalls
from dure.chat.json_schema.converter import Converter
from dure.chat.json_schema.rules import Rules, any_of, literal, sequence
from dure.chat.plan import CallRule
from dure.chat.tag_reader import TagReader, is_text

__all__ = ["CODER", "SEED", "FunctionTags"]

_CLOSING = "\n</parameter>"


@dataclass(frozen=True)
class FunctionTags(JsonCalls):
    """A family that writes arguments in tags; the tags around a call are as in `JsonCalls`."""

    def call_rule(self, rules: Rules, call: CallRule) -> str:
        """Return an expression for the text between the tags."""
        head = literal(f"<function={call.name}>\n")
        return sequence(head, *_parameters(rules, call), '"</function>"')

    def trigger(self, calls: Sequence[CallRule]) -> str:  # noqa: ARG002 - the tag alone decides
        """See JsonCalls."""
        return f"({re.escape(self.opening)}{SPACE}{prefixes_of(*'<function', '=')})$"

    def reader(
        self,
        tools: Mapping[str, Mapping[str, Any]],
        index: int,
        bare: bool,  # noqa: ARG002 - there is always a tag
    ) -> CallReader | TagReader:
        """See JsonCalls."""
        return TagReader(tools, index)


def _parameters(rules: Rules, call: CallRule) -> list[str]:
    """Return an expression per property, in the schema's order; optional unless required."""
    properties, required = call.schema.get("properties"), call.schema.get("required", ())
    if not isinstance(properties, Mapping):
        name, value = r'"<parameter=" [^>\n]+ ">\n"', rules.without(_CLOSING)
        return [rules.add("parameter", sequence(name, value, literal(_CLOSING + "\n"))) + "*"]
    result = []
    for name, schema in properties.items():
        value = _value(rules, call, schema, name)
        rule = sequence(literal(f"<parameter={name}>\n"), value, literal(_CLOSING + "\n"))
        result.append(rules.add(f"{name}-parameter", rule) + ("" if name in required else "?"))
    return result


def _value(rules: Rules, call: CallRule, schema: Any, name: str) -> str:
    if not is_text(schema):
        converter = Converter(rules, call.schema, strict=call.strict)
        return converter.value(schema, f"#/properties/{name}")
    listed = schema.get("enum", [schema["const"]] if "const" in schema else [])
    texts = [literal(value) for value in listed if isinstance(value, str)]
    return any_of(texts) if texts else rules.without(_CLOSING)


CODER = FunctionTags(
    written=re.compile(r"<tool_call>\s*<function=probe_tool>\s*<parameter=probe_key>\n"),
    opening="<tool_call>",
    closing="</tool_call>",
    key="",
    separator="\n",
)
SEED = FunctionTags(
    written=re.compile(r"<seed:tool_call>\s*<function=probe_tool>\s*<parameter=probe_key>"),
    opening="<seed:tool_call>",
    closing="</seed:tool_call>",
    key="",
    separator="\n",
)
