"""Schemas as grammars: what these allow follows the schema, and what follows it is allowed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dure.chat.json_schema import grammar_of, validate
from tests.support.gbnf_words import Judge, Words, demo_vocabulary

Schema = dict[str, Any]
Case = tuple[Schema, st.SearchStrategy[Any]]

NAMES = st.sampled_from(["a", "b", "ab", "name", 'say "it"', "두레", "root", "a-b", ""])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """llama.cpp's matcher."""
    with demo_vocabulary() as vocabulary:
        yield Judge(vocabulary)


@st.composite
def integer_cases(draw: st.DrawFn) -> Case:
    low = draw(st.none() | st.integers(-2000, 2000))
    high = draw(st.none() | st.integers(low if low is not None else -2000, 10**5))
    schema: Schema = {"type": "integer"}
    if low is not None:
        schema.update(draw(st.sampled_from([{"minimum": low}, {"exclusiveMinimum": low - 1}])))
    if high is not None:
        schema.update(draw(st.sampled_from([{"maximum": high}, {"exclusiveMaximum": high + 1}])))
    least = -(10**16) if low is None else low
    return schema, st.integers(least, 10**16 if high is None else high)


@st.composite
def number_cases(draw: st.DrawFn) -> Case:
    numbers = st.integers(-(10**5), 10**5).map(lambda n: n / 1000)
    low, high = sorted([draw(numbers), draw(numbers)])
    if low == high:
        high += 0.5
    schema: Schema = {"type": "number"}
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = high
    inner = st.floats(low, high, exclude_min=True, exclude_max=True)
    return schema, inner.map(lambda x: round(x, 3) + 0.0).filter(lambda x: low < x < high)


@st.composite
def text_cases(draw: st.DrawFn) -> Case:
    least, most = sorted([draw(st.integers(0, 6)), draw(st.integers(0, 2500))])
    schema = {"type": "string", "minLength": least, "maxLength": most}
    letters = st.characters(exclude_categories=["Cs"])
    return schema, st.text(letters, min_size=least, max_size=min(most, 12))


@st.composite
def listed_cases(draw: st.DrawFn) -> Case:
    values = draw(st.lists(VALUES, min_size=1, max_size=4))
    if draw(st.booleans()):
        return {"const": values[0]}, st.just(values[0])
    return {"enum": values}, st.sampled_from(values)


LEAVES: st.SearchStrategy[Case] = st.one_of(
    integer_cases(),
    number_cases(),
    text_cases(),
    listed_cases(),
    st.just(({"type": "boolean"}, st.booleans())),
    st.just(({"type": ["null", "boolean"]}, st.none() | st.booleans())),
    st.just(({}, VALUES)),
    st.just(({"type": "object"}, st.dictionaries(NAMES, VALUES, max_size=3))),
)


@st.composite
def array_cases(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    (schema, values), first = draw(inner), draw(st.lists(inner, max_size=2))
    least = draw(st.integers(0, 3))
    most = least + draw(st.integers(0, 3))
    result: Schema = {"type": "array", "items": schema, "minItems": least, "maxItems": most}
    if not first:
        return result, st.lists(values, min_size=least, max_size=most)
    result["prefixItems"] = [s for s, _ in first]
    size = st.integers(least, most)

    def build(n: int) -> st.SearchStrategy[Any]:
        items = [first[i][1] if i < len(first) else values for i in range(n)]
        return st.tuples(*items).map(list)

    return result, size.flatmap(build)


@st.composite
def object_cases(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    members = draw(st.dictionaries(NAMES, inner, max_size=4))
    required = [name for name in members if draw(st.booleans())]
    schema: Schema = {
        "type": "object",
        "properties": {name: s for name, (s, _) in members.items()},
        "required": required,
    }
    more = draw(st.sampled_from([None, False, True]))
    if more is not None:
        schema["additionalProperties"] = more
    whole = {name: values for name, (_, values) in members.items()}
    optional = {name: values for name, values in whole.items() if name not in required}
    fixed = st.fixed_dictionaries({n: whole[n] for n in required}, optional=optional)
    others = st.dictionaries(NAMES.filter(lambda n: n not in members and '"' not in n), VALUES)
    both = st.tuples(fixed, others if more else st.just({}))
    order = list(members)

    def arranged(pair: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
        own, rest = pair
        return {**{n: own[n] for n in order if n in own}, **rest}

    return schema, both.map(arranged)


@st.composite
def either_cases(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    options = draw(st.lists(inner, min_size=1, max_size=3))
    return {"anyOf": [s for s, _ in options]}, st.one_of([values for _, values in options])


CASES: st.SearchStrategy[Case] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(array_cases(inner), object_cases(inner), either_cases(inner)),
    max_leaves=6,
)
relaxed = settings(
    max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@relaxed
@given(CASES, st.integers(0, 2**32))
def test_every_text_of_the_grammar_follows_the_schema(case: Case, seed: int) -> None:
    """Drawn at random, within a few rules' depth."""
    schema, _ = case
    words, chance = Words(grammar_of(schema)), random.Random(seed)
    for _ in range(5):
        text = words.draw(chance)
        validate(schema, text)


@relaxed
@given(CASES, st.data())
def test_every_value_of_the_schema_is_allowed_by_llama(
    judge: Judge, case: Case, data: st.DataObject
) -> None:
    """As `json.dumps` writes it: in one line, or indented."""
    schema, values = case
    value = data.draw(values)
    indent = data.draw(st.sampled_from([None, 2]))
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if indent and ("enum" in json.dumps(schema) or "const" in json.dumps(schema)):
        text = json.dumps(value, ensure_ascii=False)  # what is listed has one way to be written
    assert judge.allows(grammar_of(schema), text), (schema, text)


PATTERNS = [
    r"^[a-z]{2,4}$",
    r"^(foo|ba[rz])+$",
    r"\d{3}-\d{4}",
    r"^\w+@\w+\.(com|org)$",
    r"^[^\s]+$",
    r'^[^a-z"]*$',
    r"^a.c$",
    r"^\x41[\u00e9\-\]]?$",
    r"^(?:ab?)*c$|^x$",
    '^\\\\["/]{1,1500}\t$',
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_of_a_pattern_match_it(judge: Judge, pattern: str) -> None:
    """Drawn from the grammar, they follow the schema, and llama.cpp allows them."""
    schema = {"type": "string", "pattern": pattern}
    gbnf, chance = grammar_of(schema), random.Random(7)
    words = Words(gbnf)
    for _ in range(30):
        text = words.draw(chance)
        validate(schema, text)
        assert judge.allows(gbnf, text)


FORMATTED = {
    "date": ["2024-02-29", "1999-12-31"],
    "time": ["23:59:59Z", "00:00:00.125+09:00"],
    "date-time": ["2026-11-21T13:55:17Z"],
    "duration": ["P1Y2M3DT4H5M6S", "PT30M", "P2W"],
    "email": ["mina@village.kr", "a.b+c@d-e.example.com"],
    "hostname": ["dure", "node-1.local"],
    "ipv4": ["192.168.0.1", "255.255.255.255"],
    "ipv6": ["2001:db8:0:0:0:0:0:1", "::1"],
    "uri": ["https://example.com/a?b=c#d"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
}


@pytest.mark.parametrize("form", FORMATTED)
def test_formats_are_kept(judge: Judge, form: str) -> None:
    """Known examples are allowed, other text is not, and what is drawn follows the schema."""
    schema = {"type": "string", "format": form}
    gbnf, chance = grammar_of(schema), random.Random(3)
    for example in FORMATTED[form]:
        assert judge.allows(gbnf, json.dumps(example)), example
        validate(schema, json.dumps(example))
    assert not judge.allows(gbnf, '"not one!"')
    for _ in range(20):
        validate(schema, Words(gbnf).draw(chance))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "multipleOf": 7}, ["0", "7", "-14", "343"], ["8", "07", "1"]),
        (
            {"type": "integer", "multipleOf": 5, "minimum": -3, "maximum": 12},
            ["0", "5", "10"],
            ["-5", "15"],
        ),
        ({"type": "number", "exclusiveMinimum": 0}, ["0.5", "1", "37.25"], ["0", "-1", "0.0"]),
        ({"type": "number", "minimum": 0.1, "maximum": 0.1}, ["0.1", "0.10"], ["0.11", "0.2", "0"]),
        (
            {"type": "object", "properties": {"a": {}, "b": {"type": "null"}}, "required": ["b"]},
            ['{"b": null}', '{"a": [1], "b": null}', '{\n  "b": null\n}'],
            ["{}", '{"b": null, "a": 1}', '{"b": null, "c": 1}'],
        ),
        (
            {"properties": {"ab": {"type": "null"}}, "additionalProperties": {"type": "boolean"}},
            ['{"ab": null, "abc": true}', '{"a": false}', '{"": true}'],
            ['{"ab": true}', '{"a": true, "ab": true}', '{"\\u0061b": true}'],
        ),
        (
            {"allOf": [{"$ref": "#/$defs/x"}, {"properties": {"b": {"type": "integer"}}}],
             "$defs": {"x": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}}},
            ['{"a": null}', '{"a": null, "b": 1}'],
            ['{"b": 1}'],
        ),
        (
            {"type": "array", "prefixItems": [{"type": "null"}], "items": False},
            ["[]", "[null]"],
            ["[null, null]", "[1]"],
        ),
        (
            {"prefixItems": [{"type": "null"}] * 3, "minItems": 1.0, "maxItems": 2.0},
            ["[null]", "[null, null]"],
            ["[]", "[null, null, null]"],
        ),
        (
            {"type": "string", "minLength": 1.0, "maxLength": 2.0},
            ['"a"', '"ab"'],
            ['""', '"abc"'],
        ),
    ],
)  # fmt: skip
def test_keywords_say_what_they_should(
    judge: Judge, schema: Schema, good: list[str], bad: list[str]
) -> None:
    """Values on both sides of the border."""
    gbnf = grammar_of(schema)
    assert [text for text in good if not judge.allows(gbnf, text)] == []
    assert [text for text in bad if judge.allows(gbnf, text)] == []


@pytest.mark.parametrize("place", ["#", "#/$defs/tree"])
def test_a_schema_may_refer_to_itself(judge: Judge, place: str) -> None:
    """By its root, and by a definition."""
    tree: Schema = {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "next": {"anyOf": [{"$ref": place}, {"type": "null"}]},
        },
        "required": ["value", "next"],
    }
    gbnf = grammar_of(tree if place == "#" else {"$ref": place, "$defs": {"tree": tree}})
    assert judge.allows(gbnf, '{"value": 1, "next": {"value": 2, "next": null}}')
    assert not judge.allows(gbnf, '{"value": 1}')


def test_no_answer_holds_half_of_a_surrogate_pair(judge: Judge) -> None:
    """`\\ud83d` alone is no text, and would break whoever reads it."""
    gbnf = grammar_of({"type": "string"})
    assert judge.allows(gbnf, '"\\u00e9\\ud7ff"')
    assert not judge.allows(gbnf, '"\\ud83d"')
