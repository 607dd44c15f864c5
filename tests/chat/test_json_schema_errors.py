"""What no grammar can say is an error that names it; what a text does wrong is told in one line."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from dure.chat.json_schema import check_schema, grammar_of, validate
from dure.errors import UsageError
from tests.support.gbnf_words import Words


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"not": {}}, "#: the keyword 'not'"),
        ({"type": "array", "uniqueItems": True}, "#: the keyword 'uniqueItems'"),
        (
            {"type": "object", "properties": {"a/b": {"patternProperties": {}}}},
            "#/properties/a~1b: the keyword 'patternProperties'",
        ),
        ({"if": {}, "then": {}}, "#: the keyword 'if'"),
        ({"type": "number", "multipleOf": 0.5}, "multipleOf 0.5"),
        ({"type": "string", "format": "color"}, "the format 'color'"),
        ({"type": "string", "pattern": "(?=a)b"}, "(?="),
        ({"type": "string", "pattern": r"(a)\1"}, r"'\\1'"),
        ({"type": "string", "pattern": "("}, "is not a 'regex'"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "'maxLength' beside 'pattern'"),
        ({"type": "string", "minLength": 10**7}, "a length of more than"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "3 characters at least and 2"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no integer lies within"),
        ({"type": "integer", "enum": ["a"]}, "none of the values"),
        ({"$ref": "#/$defs/x"}, "points to nothing"),
        ({"$ref": "https://example.com/x.json"}, "point into this schema"),
        ({"$ref": "#"}, "leads back to itself"),
        (
            {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}},
            "leads back to itself",
        ),
        ({"type": "strin"}, "'strin' is not valid"),
        ({"type": "object", "required": ["a"], "properties": {}, "additionalProperties": False}, "'a'"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "no value is both"),
        ({"properties": {"a": False}, "required": ["a"]}, "allows no value"),
        ([1], "must be an object"),
        ({"const": "\ud83d"}, "it is no JSON"),
        ({"const": float("nan")}, "it is no JSON"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named_with_its_place(schema: Any, told: str) -> None:
    """By a JSON pointer; never dropped."""
    with pytest.raises(UsageError, match=re.escape(told)) as error:
        check_schema(schema)
    assert "\n" not in str(error.value)


def test_annotations_are_no_keywords() -> None:
    """Titles, defaults and what begins with x- change nothing."""
    plain = {"type": "object", "properties": {"a": {"type": "integer"}}}
    told = {
        **plain,
        "title": "T",
        "description": "d",
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "default": {},
        "x-order": 3,
        "uniqueItems": False,
    }
    assert grammar_of(told) == grammar_of(plain)


def test_a_schema_that_is_not_strict_allows_anything_where_a_grammar_cannot_say_it() -> None:
    """The rest still holds."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "(?=x)"}, "b": {"not": {}}},
    }
    words, chance = Words(grammar_of(schema, strict=False)), random.Random(5)
    drawn = [json.loads(words.draw(chance)) for _ in range(50)]
    assert {name for one in drawn for name in one} == {"a", "b"}


@pytest.mark.parametrize("depth", [200, 5000])
def test_a_schema_nested_too_deeply_is_refused(depth: int) -> None:
    """No recursion without end, whoever sends it."""
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    with pytest.raises(UsageError, match="nested too deeply"):
        check_schema(schema)


def test_a_schema_that_grows_without_end_is_refused() -> None:
    """Definitions that double each other, lists that fill the memory."""

    def twice(i: int) -> dict[str, Any]:
        return {"allOf": [{"$ref": f"#/$defs/d{i + 1}", "title": t} for t in ("one", "two")]}

    doubling = {f"d{i}": {**twice(i), "title": str(i)} for i in range(40)}
    last = {"type": "object", "properties": {"a": {}}}
    check_schema({"$ref": "#/$defs/d37", "$defs": {**doubling, "d40": last}})
    with pytest.raises(UsageError, match=r"more than \d+ combinations|nested too deeply"):
        check_schema({"$ref": "#/$defs/d0", "$defs": {**doubling, "d40": last}})
    with pytest.raises(UsageError, match="too large a grammar"):
        check_schema({"enum": ["x" * 1000 + str(i) for i in range(2000)]})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1', "is no JSON"),
        ('{"a": "x"}', "does not follow the schema at #/a: 'x' is not of type 'integer'"),
        ("{}", "'a' is a required property"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_text_is_judged_in_one_line(text: str, told: str) -> None:
    """What is wrong, and where."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        validate(schema, text)
    assert "\n" not in str(error.value)
    validate(schema, '{"a": 1}')
