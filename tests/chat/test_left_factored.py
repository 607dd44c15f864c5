"""Many alternatives become few at any point, and the grammar still allows the same texts."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dure.chat.caller_grammar import checked_rules
from dure.chat.gbnf import read_gbnf
from dure.chat.json_schema import grammar_of
from dure.chat.left_factored import FEW, left_factored, write_gbnf
from tests.support.gbnf_words import Judge, Words, demo_vocabulary

MANY = {
    "words": "root ::= " + " | ".join(f'"word {n} x"' for n in range(200)),
    "beginnings of each other": "root ::= " + " | ".join(f'"{"ab" * n}"' for n in range(60)),
    "a group": f'root ::= "<" ({" | ".join(f"[a-c] x{n % 7} [^a]" for n in range(90))}){{1,2}} .\n'
    + "".join(f'x{n} ::= "{n}" | "\\u00e9" x{n}\n' for n in range(7)),
    "names that are taken": "root ::= alike-1 | "
    + " | ".join(f'alike-1 "{n}"' for n in range(50))
    + '\nalike-1 ::= "]" | "^" | [^^\\]-]',
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with demo_vocabulary() as vocabulary:
        yield Judge(vocabulary)


@pytest.mark.parametrize("name", MANY)
def test_joined_alternatives_allow_the_same_texts(judge: Judge, name: str) -> None:
    """Texts of either grammar, and texts that differ from them by a character."""
    gbnf, chance = MANY[name], random.Random(3)
    joined = checked_rules(gbnf)
    assert joined != gbnf
    drawn = [Words(one).draw(chance) for one in (gbnf, joined) for _ in range(40)]
    for text in [*drawn, *(text[:-1] for text in drawn), *(text + "x" for text in drawn)]:
        assert judge.allows(joined, text) == judge.allows(gbnf, text), text


@pytest.mark.parametrize("name", MANY)
def test_of_many_alternatives_no_two_begin_with_the_same(name: str) -> None:
    """A rule of few is left as it is."""
    for rule in left_factored(read_gbnf(MANY[name])).values():
        firsts = [items[0] for items in rule if items]
        assert len(rule) <= FEW or len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("name", MANY)
def test_a_written_grammar_is_read_as_it_was(name: str) -> None:
    """Every kind of item keeps its meaning."""
    rules = read_gbnf(MANY[name] + '\nother ::= <think> !<[65]> "a"? [a-z]+ . "b"{2,3} ("x" | "")')
    assert read_gbnf(write_gbnf(rules)) == rules


LISTED = {"enum": [f"value number {n * 7919 % 100_003}" for n in range(10_000)]}
NAMES = {f"property{n}": {"type": "null"} for n in range(1000)}


@pytest.mark.parametrize(
    "schema",
    [
        LISTED,
        {"type": "object", "properties": NAMES},
        {"type": "object", "properties": NAMES, "required": ["property500"]},
        {"type": "object", "properties": NAMES, "additionalProperties": True},
    ],
    ids=["enum", "optional", "one required", "open"],
)
def test_a_large_schema_makes_few_alternatives_at_any_point(schema: dict[str, object]) -> None:
    """llama.cpp follows each on its own for every token."""
    gbnf = grammar_of(schema)
    assert max(len(rule) for rule in read_gbnf(gbnf).values()) < FEW
    assert len(gbnf) < 400_000, "a grammar that grows with the square has 10,000,000 characters"


def test_texts_of_a_large_enum_are_allowed_and_no_others(judge: Judge) -> None:
    """Also if one value begins like another."""
    gbnf = grammar_of({"enum": [*range(2000), "1", "11", "", "\0", "a\0", "a"]})
    for text in [
        "0",
        "1",
        "19",
        "199",
        "1999",
        '"1"',
        '"11"',
        '""',
        '"a"',
        r'"\u0000"',
        r'"a\u0000"',
    ]:
        assert judge.allows(gbnf, text), text
    for text in ["2000", "00", "-1", '"111"', '"1', "19991", '"b"']:
        assert not judge.allows(gbnf, text), text
